import { PenstockError } from '../errors.ts';

/** What an instant would show is not kept any more. Another instant may live long enough. */
export class InstantLostError extends PenstockError {
  constructor(url: string, why: string) {
    super('conflict', `${url}: the records of an instant are not kept any more: ${why}`);
  }
}
