import { expect, test } from 'vitest';
import { SilentFilters } from '../../../agent/sources/mqtt/silent-filters.ts';

// MQTT 5.0, sections 4.7.1 and 4.7.2.
test.each([
  [
    'sport/tennis/player1/#',
    ['sport/tennis/player1', 'sport/tennis/player1/ranking', 'sport/tennis/player1/a/b'],
    ['sport/tennis', 'sport/tennis/player2'],
  ],
  ['#', ['a', 'a/b', '/a'], ['$SYS/uptime']],
  ['+', ['a'], ['/a', 'a/b', '$SYS']],
  ['+/+', ['/finance', 'a/b'], ['a', 'a/b/c', '$SYS/a']],
  ['sport/+', ['sport/', 'sport/a'], ['sport', 'sport/a/b']],
  ['+/monitor/clients', ['a/monitor/clients'], ['$SYS/monitor/clients']],
  ['$SYS/monitor/+', ['$SYS/monitor/clients'], ['SYS/monitor/clients']],
  ['a/+/c/#', ['a/b/c', 'a//c/d'], ['a/b', 'a/c/d']],
])('%s matches %j, and not %j', (filter, matching, others) => {
  for (const topic of matching) {
    const filters = new SilentFilters([filter, 'never']);
    filters.heard(topic);
    expect(filters.filters, topic).toEqual(['never']);
  }
  const filters = new SilentFilters([filter, '$share/group/x']);
  for (const topic of others) filters.heard(topic);
  expect(filters.filters).toEqual([filter]);
});
