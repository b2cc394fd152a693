/** Whether a value goes into a column. */

export const FIT = 0;
export const MISFIT = 1;
/** A number of the parsed object has lost digits: parse again with `parseExactly`. */
export const INEXACT = 2;
export const TOO_DEEP = 3;
export type Fit = typeof FIT | typeof MISFIT | typeof INEXACT | typeof TOO_DEEP;
