/** What is worth a look in a configuration that is right: `validate` shows it, and nothing is refused for it. */
import type { AgentConfig } from './config.ts';

/** One configuration may be that of many agents with other sources, so a transform without readings is no fault; mostly it is a typing error. */
export function remarksOf({ sources, transforms, rules }: AgentConfig): readonly string[] {
  // A module names its topics itself.
  if (transforms.some(({ type }) => type === 'wasm')) return [];
  const topics = new Set([
    ...sources.map(({ to }) => to),
    ...transforms.flatMap((transform) => ('to' in transform && transform.to !== undefined ? [transform.to] : [])),
    ...rules.flatMap((rule) => (rule.do.route === undefined ? [] : [rule.do.route])),
  ]);
  return transforms.flatMap(({ on }, index) =>
    topics.has(on)
      ? []
      : [`transforms[${index}].on: no source gives the topic '${on}': there are ${[...topics].join(', ')}`],
  );
}
