/**
 * Deadband: a reading is dropped when its value differs from the last kept one of its sensor by at most `by`.
 *
 * Failure: what is remembered lives in memory. After a restart, and when a sensor was forgotten for others, its next reading is kept.
 */
import { sensorId, type Step } from './step.ts';
import { SensorStates } from './sensor-states.ts';
import type { ConfigOf } from './transform-config.ts';

export function deadbandStep({ on, field, by, maxGap = Infinity, sensors }: ConfigOf<'deadband'>): Step {
  const states = new SensorStates<[value: number, eventUs: number]>(sensors);
  return {
    name: `deadband ${on}.${field}`,
    on,
    states,
    apply(draft, out) {
      const value = draft.number(field);
      if (value === undefined) {
        out.miss(draft);
        return;
      }
      const sensor = sensorId(draft);
      const kept = states.get(sensor);
      if (kept !== undefined) {
        const [keptValue, keptUs] = kept;
        const gapMs = Math.abs(draft.eventUs - keptUs) / 1000;
        if (Math.abs(value - keptValue) <= by && gapMs < maxGap) {
          out.drop();
          return;
        }
      }
      states.set(sensor, [value, draft.eventUs]);
      out.pass(draft);
    },
  };
}
