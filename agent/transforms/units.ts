/** Units that `convert` knows: what a value is multiplied by, and what is then added, to have it in the first unit of its quantity. */
type Unit = readonly [factor: number, offset?: number];

/** Exact by definition (NIST SP 811, appendix B) except where the source itself is rounded. */
const QUANTITIES: Readonly<Record<string, Readonly<Record<string, Unit>>>> = {
  temperature: { K: [1], degC: [1, 273.15], degF: [5 / 9, (459.67 * 5) / 9] },
  pressure: { Pa: [1], hPa: [100], kPa: [1e3], MPa: [1e6], mbar: [100], bar: [1e5], psi: [6894.757293168], atm: [101_325] },
  length: { m: [1], um: [1e-6], mm: [1e-3], cm: [1e-2], km: [1e3], in: [0.0254], ft: [0.3048], mi: [1609.344] },
  speed: { 'm/s': [1], 'mm/s': [1e-3], 'in/s': [0.0254], 'km/h': [1 / 3.6], mph: [0.44704] },
  acceleration: { 'm/s2': [1], g: [9.80665] },
  mass: { kg: [1], mg: [1e-6], gram: [1e-3], t: [1e3], lb: [0.45359237] },
  volume: { m3: [1], l: [1e-3], ml: [1e-6], gal: [0.003785411784] },
  flow: { 'm3/s': [1], 'm3/h': [1 / 3600], 'l/s': [1e-3], 'l/min': [1e-3 / 60], gpm: [0.003785411784 / 60] },
  energy: { J: [1], kJ: [1e3], Wh: [3600], kWh: [3.6e6] },
  power: { W: [1], mW: [1e-3], kW: [1e3], MW: [1e6], hp: [745.69987158227022] },
  current: { A: [1], mA: [1e-3], uA: [1e-6] },
  voltage: { V: [1], mV: [1e-3], kV: [1e3] },
  frequency: { Hz: [1], kHz: [1e3], MHz: [1e6], rpm: [1 / 60] },
  angle: { rad: [1], deg: [Math.PI / 180] },
  time: { s: [1], us: [1e-6], ms: [1e-3], min: [60], h: [3600] },
}; // prettier-ignore

/** Why there is no conversion, or null. */
export function conversionRefusal(from: string, to: string): string | null {
  const quantity = quantityOf(from);
  if (quantity === undefined) return `'${from}' is not a unit: expected one of ${allUnits()}`;
  return Object.hasOwn(QUANTITIES[quantity] ?? {}, to)
    ? null
    : `'${to}' is not a unit of ${quantity} as '${from}' is: expected one of ${Object.keys(QUANTITIES[quantity] ?? {}).join(', ')}`;
}

/** For units that `conversionRefusal` has nothing against. */
export function conversionOf(from: string, to: string): (value: number) => number {
  const units = QUANTITIES[quantityOf(from) ?? ''] ?? {};
  const [factor, offset = 0] = units[from] ?? [1];
  const [toFactor, toOffset = 0] = units[to] ?? [1];
  return (value) => (value * factor + offset - toOffset) / toFactor;
}

function quantityOf(unit: string): string | undefined {
  return Object.keys(QUANTITIES).find((quantity) => Object.hasOwn(QUANTITIES[quantity] ?? {}, unit));
}

function allUnits(): string {
  return Object.values(QUANTITIES)
    .flatMap((units) => Object.keys(units))
    .join(', ');
}
