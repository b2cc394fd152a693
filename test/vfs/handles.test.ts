/** Who hears of what is not in the volume. */
import { expect, test } from 'vitest';
import { Handles } from '../../fs-gateway/vfs/handles.ts';
import { PenstockError } from '../../lib/errors.ts';

test('an fsync that fails for another reason has told nobody of what is lost', async () => {
  const handles = new Handles();
  const [first, second] = [handles.next(), handles.next()];
  handles.lost(7, 'it is kept aside');
  const full = new PenstockError('quota', 'no more than 1 GB');
  const refused = (): never => {
    throw full;
  };
  expect(() => handles.syncing(7, first, refused)).toThrow('no more than 1 GB');
  await expect(handles.syncing(7, second, () => Promise.reject(full))).rejects.toThrow('no more than 1 GB');
  const fine = (): void => undefined;
  expect(() => handles.syncing(7, first, fine)).toThrow('it is kept aside');
  expect(() => handles.syncing(7, second, fine)).toThrow('it is kept aside');
  expect(handles.syncing(7, first, fine)).toBeUndefined();
  // Whose own flush met it has been told.
  handles.lost(7, 'it is kept aside, too');
  await expect(
    handles.syncing(7, first, () => Promise.reject(new PenstockError('io', 'it is kept aside, too'))),
  ).rejects.toThrow('too');
  expect(handles.syncing(7, first, fine)).toBeUndefined();
});

test('what is lost of nobody knows which inode is told to each handle that was open, once', () => {
  const handles = new Handles();
  const [first, second] = [handles.next(), handles.next()];
  handles.lostOfAny('the journal is damaged');
  const later = handles.next();
  const fine = (): void => undefined;
  expect(handles.syncing(7, later, fine)).toBeUndefined();
  expect(() => handles.syncing(7, first, fine)).toThrow('the journal is damaged');
  expect(handles.syncing(7, first, fine)).toBeUndefined();
  handles.closed(8);
  expect(() => handles.syncing(8, second, fine)).toThrow('the journal is damaged');
});
