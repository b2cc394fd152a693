/**
 * Exponential smoothing: beside a field, the moving average of it, for each sensor.
 *
 *   transforms:
 *     - { type: wasm, on: vibration, module: smooth.wasm, config: { field: rms, alpha: 0.2 } }
 *
 *   {"rms":1.4}  ->  {"rms":1.4,"rms_smooth":1.28}
 *
 * It shows what a module can do: it takes a configuration and refuses a wrong one with a reason, leaves readings alone that it has nothing
 * to say about, sends those to the quarantine that it cannot judge, and keeps a state for each sensor over restarts.
 */
import { answer, append, Batch, begin, change, finish, keep, refuse } from './penstock';
import { numberField, textField } from './json';

export { penstock_abi, penstock_alloc } from './penstock';

/** The state of so many sensors, with ids of 40 bytes, has 10 kB. */
const SENSORS_MAX = 200;

let name = '';
let alpha: f64 = 0;
const averages = new Map<string, f64>();

export function penstock_init(at: usize, bytes: u32): u64 {
  name = textField(at, bytes, 'field');
  if (name == '') return answer('expected a `field`, as { field: rms, alpha: 0.2 }');
  alpha = numberField(at, bytes, 'alpha');
  if (!(alpha > 0 && alpha <= 1))
    return answer('expected an `alpha` above 0 and up to 1, as { field: rms, alpha: 0.2 }');
  return 0;
}

export function penstock_process(at: usize, bytes: u32): u64 {
  begin();
  const batch = new Batch(at);
  while (batch.next()) {
    const value = numberField(batch.value, batch.bytes, name);
    if (isNaN(value)) keep(batch.index);
    else if (!isFinite(value)) refuse(batch.index, name + ' is too large');
    else smooth(batch, value);
  }
  return finish();
}

function smooth(batch: Batch, value: f64): void {
  const known = averages.has(batch.sensor);
  const average = known ? alpha * value + (1 - alpha) * averages.get(batch.sensor) : value;
  if (!known && averages.size >= SENSORS_MAX) averages.delete(averages.keys()[0]);
  averages.set(batch.sensor, average);
  // In front of the brace that ends the object.
  let body = batch.bytes;
  while (load<u8>(batch.value + body - 1) != 0x7d) body--;
  body--;
  const more = ',"' + name + '_smooth":' + average.toString() + '}';
  const moreBytes = String.UTF8.byteLength(more);
  const to = change(batch.index, body + moreBytes);
  memory.copy(to, batch.value, body);
  String.UTF8.encodeUnsafe(changetype<usize>(more), more.length, to + body);
}

/** For each sensor: u32 bytes of its id, the id, f64. */
export function penstock_save(): u64 {
  begin();
  const sensors = averages.keys();
  for (let index = 0; index < sensors.length; index++) {
    const sensor = sensors[index];
    const bytes = String.UTF8.byteLength(sensor);
    const at = append(12 + bytes);
    store<u32>(at, bytes);
    String.UTF8.encodeUnsafe(changetype<usize>(sensor), sensor.length, at + 4);
    store<f64>(at + 4 + bytes, averages.get(sensor));
  }
  return finish();
}

export function penstock_restore(at: usize, bytes: u32): u32 {
  averages.clear();
  const end = at + bytes;
  while (at < end) {
    const length = load<u32>(at);
    averages.set(String.UTF8.decodeUnsafe(at + 4, length), load<f64>(at + 4 + length));
    at += 12 + length;
  }
  return 0;
}
