/**
 * Transforms that look at one reading at a time. A reading without the field that is asked for goes on unchanged, and is counted; one
 * whose field is of another type than it must be fails.
 */
import { crc32c } from '@node-rs/crc32';
import { ALARM_PRIORITY } from '../spool/frame.ts';
import { emptyFields, type Draft } from './draft.ts';
import type { Step } from './step.ts';
import type { ConfigOf } from './transform-config.ts';
import { conversionOf } from './units.ts';

type Outcome = 'keep' | 'drop' | 'missed';

function step(name: string, on: string, judge: (draft: Draft) => Outcome): Step {
  return {
    name: `${name} ${on}`,
    on,
    apply(draft, out) {
      const outcome = judge(draft);
      if (outcome === 'drop') out.drop();
      else if (outcome === 'missed') out.miss(draft);
      else out.pass(draft);
    },
  };
}

/** In the place of the old name. A field that already has the new name gives way. */
export function renameStep({ on, fields: names }: ConfigOf<'rename'>): Step {
  const newNames = new Map(Object.entries(names));
  return step('rename', on, (draft) => {
    const { fields } = draft;
    if (fields === null) return 'missed';
    const renamed = Object.keys(fields).filter((name) => newNames.has(name));
    if (renamed.length === 0) return 'missed';
    const taken = new Set(renamed.map((name) => newNames.get(name)));
    const result = emptyFields();
    for (const [name, value] of Object.entries(fields)) {
      const newName = newNames.get(name);
      if (newName !== undefined) result[newName] = value;
      else if (!taken.has(name)) result[name] = value;
    }
    draft.replace(result);
    return renamed.length < newNames.size ? 'missed' : 'keep';
  });
}

export function selectStep({ on, fields: names }: ConfigOf<'select'>): Step {
  const wanted = new Set(names);
  return step('select', on, (draft) => {
    const { fields } = draft;
    if (fields === null) return 'missed';
    const result = emptyFields();
    for (const [name, value] of Object.entries(fields)) if (wanted.has(name)) result[name] = value;
    const count = Object.keys(result).length;
    if (count === 0) return 'missed';
    draft.replace(result);
    return count < wanted.size ? 'missed' : 'keep';
  });
}

export function filterStep({ on, keep }: ConfigOf<'filter'>): Step {
  return step('filter', on, (draft) => (keep(draft) ? 'keep' : 'drop'));
}

export function routeStep({ on, when, to, priority }: ConfigOf<'route'>): Step {
  return step('route', on, (draft) => {
    if (when(draft)) {
      draft.topic = to ?? draft.topic;
      draft.priority = priority ?? draft.priority;
    }
    return 'keep';
  });
}

export function sampleStep({ on, rate }: ConfigOf<'sample'>): Step {
  return step('sample', on, (draft) => (isSampled(draft.key, draft.eventUs, draft.priority, rate) ? 'keep' : 'drop'));
}

/** By a hash of sensor and time: a reading that is delivered again is judged the same. Alarms are always kept. */
export function isSampled(key: string | null, eventUs: number, priority: number, rate: number): boolean {
  return priority >= ALARM_PRIORITY || mix(crc32c(`${key ?? ''}|${eventUs}`)) / 2 ** 32 < rate;
}

export function scaleStep({ on, field, by, offset, as = field }: ConfigOf<'scale'>): Step {
  return linearStep('scale', on, field, as, (value) => value * by + offset);
}

export function convertStep({ on, field, from, to, as = field }: ConfigOf<'convert'>): Step {
  return linearStep('convert', on, field, as, conversionOf(from, to));
}

function linearStep(name: string, on: string, field: string, as: string, act: (value: number) => number): Step {
  return step(name, on, (draft) => {
    const value = draft.field(field);
    if (value === undefined || value === null) return 'missed';
    const result = typeof value === 'number' ? act(value) : NaN;
    if (!Number.isFinite(result))
      throw new Error(`${field} is ${JSON.stringify(value).slice(0, 100)}: expected a number`);
    const changed = Object.assign(emptyFields(), draft.fields);
    changed[as] = result;
    draft.replace(changed);
    return 'keep';
  });
}

/** CRCs of similar texts are similar: the finaliser of MurmurHash3 spreads them. */
function mix(hash: number): number {
  let mixed = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
