/** The keys of `{ type: modbus }`. */
import { z } from 'zod';
import { duration } from '../../../lib/config/load.ts';
import { priority, serverAddress, serverUrl, topic } from '../../config-parts.ts';

const DEFAULT_PORTS: Readonly<Record<string, number>> = { 'modbus:': 502 };
/** A read answers in one PDU of 253 bytes (MODBUS Application Protocol V1.1b3, sections 4.1, 6.1 and 6.3). */
export const WORDS_PER_READ_MAX = 125;
export const BITS_PER_READ_MAX = 2000;
const ADDRESSES = 65_536;
/** What the readings hold beside the registers. */
const OWN_FIELDS = ['sensor', 'ts', 'quality', 'problem'];

/** How many registers a value of a type takes. */
const WORDS = {
  bool: 1,
  int16: 1,
  uint16: 1,
  int32: 2,
  uint32: 2,
  float32: 2,
  int64: 4,
  uint64: 4,
  float64: 4,
} as const;

const endian = z.enum(['big', 'little']);
const unit = z.int().min(0).max(255);

const register = z
  .strictObject({
    /** The field of the reading. */
    name: z
      .string()
      .min(1)
      .max(256)
      .refine((name) => !OWN_FIELDS.includes(name), `${OWN_FIELDS.join(', ')} are fields of every reading already`),
    table: z.enum(['coil', 'discrete', 'input', 'holding']).default('holding'),
    /** As in the protocol, from 0. */
    address: z
      .int()
      .min(0)
      .max(
        ADDRESSES - 1,
        'expected 0 to 65535, the address in the protocol: what a manual calls 400108 is 107 of holding',
      ),
    /** Default: bool of a bit, uint16 of a register. */
    type: z
      .enum(['bool', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64', 'float32', 'float64', 'string'])
      .optional(),
    /** Of a string, in bytes. */
    length: z
      .int()
      .min(1)
      .max(2 * WORDS_PER_READ_MAX)
      .optional(),
    /** Of a bool in a register: 0 is the lowest. */
    bit: z.int().min(0).max(15).optional(),
    /** value * scale + offset */
    scale: z.number().optional(),
    offset: z.number().optional(),
    byteOrder: endian.optional(),
    wordOrder: endian.optional(),
  })
  .superRefine((given, context) => {
    const complain = (key: string, message: string): void => context.addIssue({ code: 'custom', path: [key], message });
    const isBit = isBitTable(given.table);
    const type = typeOf(given);
    if (isBit && type !== 'bool') complain('type', `a ${given.table} is one bit: expected bool`);
    if (type === 'string' && given.length === undefined) complain('length', 'a string needs its length in bytes');
    if (type !== 'string' && given.length !== undefined) complain('length', 'length is for type: string');
    if (type === 'bool' && !isBit && given.bit === undefined)
      complain('bit', 'a bool in a register needs its bit: 0 (the lowest) to 15');
    if ((type !== 'bool' || isBit) && given.bit !== undefined) complain('bit', 'bit is for type: bool in a register');
    for (const key of ['scale', 'offset'] as const) {
      if ((type === 'bool' || type === 'string') && given[key] !== undefined)
        complain(key, `a ${type} cannot be scaled`);
    }
    if (given.address < ADDRESSES && given.address + wordsOf(given) > ADDRESSES)
      complain('address', 'the value reaches beyond address 65535');
  });
export type RegisterConfig = z.output<typeof register>;

const group = z
  .strictObject({
    /** The key of the records and a field of the value. */
    sensor: z.string().min(1).max(256),
    /** Default: that of the source. */
    unit: unit.optional(),
    interval: interval().optional(),
    registers: z.array(register).min(1, 'expected at least one register').max(1000),
  })
  .superRefine(({ registers }, context) => {
    const names = new Set<string>();
    registers.forEach(({ name }, index) => {
      if (names.has(name)) {
        const message = `another register of this group is called ${name}`;
        context.addIssue({ code: 'custom', path: ['registers', index, 'name'], message });
      }
      names.add(name);
    });
  });
export type GroupConfig = z.output<typeof group>;

export const modbusSourceSchema = z
  .strictObject({
    type: z.literal('modbus'),
    url: serverUrl(DEFAULT_PORTS, 'the URL of a device or gateway, as modbus://192.168.0.10:502'),
    to: topic,
    priority,
    /** Of the groups that name none. 1 is what most devices with an address of their own answer to. */
    unit: unit.default(1),
    interval: interval().default(1000),
    /** For one answer. A gateway waits for a serial line behind it: its own timeout must be shorter. */
    timeout: duration()
      .refine((ms) => ms >= 10 && ms <= 60_000, 'expected 10ms to 1m')
      .default(1000),
    /** The protocol sends high bytes first; in which order the registers of a longer value stand is every vendor's own. */
    byteOrder: endian.default('big'),
    wordOrder: endian.default('big'),
    /** So many addresses that nobody asked for are read along where that saves a request: a request costs more than 32 bytes. */
    mergeGap: z.int().min(0).max(WORDS_PER_READ_MAX).default(16),
    /** Of one request; some devices take fewer than the protocol. */
    maxRegisters: z.int().min(1).max(WORDS_PER_READ_MAX).default(WORDS_PER_READ_MAX),
    groups: z.array(group).min(1, 'expected at least one group of registers').max(1000),
  })
  .superRefine(({ groups, maxRegisters }, context) => {
    groups.forEach(({ registers }, index) => {
      registers.forEach((each, place) => {
        if (isBitTable(each.table) || wordsOf(each) <= maxRegisters) return;
        const message = `the value has ${wordsOf(each)} registers, and maxRegisters is ${maxRegisters}`;
        context.addIssue({ code: 'custom', path: ['groups', index, 'registers', place, 'type'], message });
      });
    });
  });
export type ModbusSourceConfig = z.output<typeof modbusSourceSchema>;

export function deviceAddress({ url }: Pick<ModbusSourceConfig, 'url'>): { host: string; port: number } {
  return serverAddress(url, DEFAULT_PORTS);
}

export function isBitTable(table: RegisterConfig['table']): boolean {
  return table === 'coil' || table === 'discrete';
}

export function typeOf({ table, type }: Pick<RegisterConfig, 'table' | 'type'>): NonNullable<RegisterConfig['type']> {
  return type ?? (isBitTable(table) ? 'bool' : 'uint16');
}

/** How many addresses the value takes. */
export function wordsOf(config: Pick<RegisterConfig, 'table' | 'type' | 'length'>): number {
  const type = typeOf(config);
  return type === 'string' ? Math.ceil((config.length ?? 1) / 2) : WORDS[type];
}

/** Devices answer in some 10 ms; below that, a machine has other interfaces. */
function interval(): z.ZodType<number> {
  return duration().refine((ms) => ms >= 10 && ms <= 86_400_000, 'expected 10ms to 24h');
}
