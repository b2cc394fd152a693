/** What brokers' codes mean, in words: CONNACK of 3.1.1 (section 3.2.2.3), reason codes of 5.0 (section 2.4). */
const RETURN_CODES: Readonly<Record<number, string>> = {
  1: 'it does not speak MQTT 3.1.1',
  2: 'it does not take this clientId',
  3: 'it is not available',
  4: 'user or password is wrong',
  5: 'not authorised: it may want a user and password, or another clientId',
};

const REASON_CODES: Readonly<Record<number, string>> = {
  0x80: 'unspecified error',
  0x81: 'malformed packet',
  0x82: 'protocol error',
  0x83: 'refused for a reason of its own',
  0x84: 'it does not speak MQTT 5: set `version: 3.1.1`',
  0x85: 'it does not take this clientId',
  0x86: 'user or password is wrong',
  0x87: 'not authorised: it may want a user and password, or deny this topic',
  0x88: 'it is not available',
  0x89: 'it is busy',
  0x8a: 'this client is banned',
  0x8b: 'it is shutting down',
  0x8c: 'bad authentication method',
  0x8d: 'it heard nothing within the keep-alive time',
  0x8e: 'another client connected with the same clientId: each agent needs its own',
  0x8f: 'it does not take this topic filter',
  0x90: 'it does not take this topic',
  0x93: 'more messages are under way than receiveMaximum',
  0x95: 'a packet is too large',
  0x96: 'messages come too fast',
  0x97: 'a quota is used up',
  0x98: 'an administrator ended the connection',
  0x9b: 'it does not support this QoS',
  0x9c: 'use another server',
  0x9d: 'the server has moved',
  0x9e: 'it does not support shared subscriptions',
  0x9f: 'connections come too fast',
  0xa0: 'the connection was open for too long',
  0xa1: 'it does not support subscription identifiers',
  0xa2: 'it does not support wildcards',
};

export function returnCodeText(code: number): string {
  return RETURN_CODES[code] ?? `code ${code}`;
}

export function reasonCodeText(code: number): string {
  return REASON_CODES[code] ?? `reason code 0x${code.toString(16)}`;
}
