import { prefixStorage, type Storage } from "unstorage";
import { z } from "zod";
import { granted } from "./_grant.ts";

/** How long it is remembered that a key was revoked, against one who changes it at the same moment. ms */
const GONE = 86_400_000;
/** How long an expired key is still listed. ms */
const EXPIRED = 30 * 86_400_000;
/** Values that are read or written at a time. */
const AT_ONCE = 50;

/** A key in the store. One with a field that is not known here is none: it might bind its client. */
const record = granted.extend({
  id: z.string().regex(/^ak-[0-9a-f]{12}$/),
  name: z.string(),
  /** SHA-256 of the key, hex: nobody can guess 32 random bytes, so that a slow hash would only slow down calls. */
  hash: z.string().length(64),
  createdAt: z.number(),
  createdBy: z.string(),
  /** The key that was in its place before, until its grace is over. */
  former: z.object({ hash: z.string().length(64), until: z.number() }).optional(),
});
export type Kept = z.output<typeof record>;

/** What is in the store, at once. Unix ms. */
export interface Shelf {
  readonly keys: ReadonlyMap<string, Kept>;
  readonly used: ReadonlyMap<string, number>;
}

/** Changes with each change of a key. */
export function versionIn(values: Storage): Promise<unknown> {
  return on(values).getItem("version");
}

/** `gone` is told of each key that was revoked, before the others are read. Clears away what is of no use any more. */
export async function readKeys(values: Storage, now: number, gone: (id: string) => void): Promise<Shelf> {
  const storage = on(values);
  const names = (await storage.getKeys()).map((name) => name.split(":"));
  const of = (kind: string): Map<string, string> =>
    new Map(names.flatMap(([is, id = "", at = ""]) => (is === kind ? [[id, at] as const] : [])));
  const revoked = of("gone");
  for (const id of revoked.keys()) gone(id);
  const keys = new Map<string, Kept>();
  const used = new Map<string, number>();
  await inBatches(of("made").keys(), async (id) => {
    const { success, data } = record.safeParse(await storage.getItem(`made:${id}`));
    const over = revoked.has(id) || (success && (data.expires ?? Infinity) + EXPIRED < now);
    if (over) await storage.removeItem(`made:${id}`);
    else if (success && data.id === id) keys.set(id, data);
  });
  await inBatches(of("used").keys(), async (id) => {
    if (keys.has(id)) used.set(id, Number(await storage.getItem(`used:${id}`)));
    else await storage.removeItem(`used:${id}`);
  });
  for (const [id, at] of revoked) if (Number(at) + GONE < now) await storage.removeItem(`gone:${id}:${at}`);
  return { keys, used };
}

/** `version`: one that there was never before. */
export async function writeKey(values: Storage, kept: Kept, version: string): Promise<void> {
  const storage = on(values);
  await storage.setItem(`made:${kept.id}`, kept);
  await storage.setItem("version", version);
}

/** For good, whatever others write of it at the same moment. */
export async function writeGone(values: Storage, id: string, now: number, version: string): Promise<void> {
  const storage = on(values);
  await storage.setItem(`gone:${id}:${Math.round(now)}`, true);
  await storage.setItem("version", version);
  // Whoever reads it next clears away what is left, should this fail.
  for (const kind of ["made", "used"]) await storage.removeItem(`${kind}:${id}`).catch(() => undefined);
}

/** Returns the ids of those that could not be written. */
export async function writeUsed(values: Storage, used: ReadonlyMap<string, number>): Promise<string[]> {
  const failed: string[] = [];
  await inBatches(used.keys(), async (id) => {
    await on(values)
      .setItem(`used:${id}`, used.get(id) ?? 0)
      .catch(() => failed.push(id));
  });
  return failed;
}

export async function usedIn(values: Storage, ids: Iterable<string>): Promise<Map<string, number>> {
  const used = new Map<string, number>();
  await inBatches(ids, async (id) => void used.set(id, Number(await on(values).getItem(`used:${id}`))));
  return used;
}

function on(values: Storage): Storage {
  return prefixStorage(values, "keys");
}

async function inBatches(ids: Iterable<string>, run: (id: string) => Promise<void>): Promise<void> {
  const all = [...ids];
  for (let at = 0; at < all.length; at += AT_ONCE) await Promise.all(all.slice(at, at + AT_ONCE).map(run));
}
