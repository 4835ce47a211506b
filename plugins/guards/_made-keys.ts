import { timingSafeEqual } from "node:crypto";
import type { Allowance, Scope } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { check } from "../frontends/_exchange.ts";
import { openStore, type Store } from "../stores/_store.ts";
import { allowanceOf, sha256, wished, type Grant, type Wish } from "./_grant.ts";
import { readKeys, usedIn, versionIn, writeGone, writeKey, writeUsed, type Kept } from "./_keys.ts";

/** The id finds the key without a search; what follows are 32 random bytes. */
const FORM = /^(ak-[0-9a-f]{12})-[A-Za-z0-9_-]{43}$/;
/** How often a node asks a store that others share whether keys have changed. ms */
const LOOK = 500;
/** How often it is written when a key was used last. ms */
const NOTE = 60_000;

/** A key as it may be shown. Times are Unix ms. */
export interface ShownKey extends Allowance {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly expires: number | null;
  readonly createdAt: number | null;
  readonly createdBy: string;
  /** Of another node a minute late. Null: never, or not known. */
  readonly lastUsed: number | null;
}
/** `key` is told once and never again. */
export type NewKey = ShownKey & { readonly key: string };

/** Keys that are made while the node runs. All that changes them rejects with OVERLOADED while the store is down. */
export interface MadeKeys {
  /**
   * What a key allows, if it is one of these; whether it has expired is not asked. `digest`: its SHA-256. Throws OVERLOADED
   * where nobody knows.
   */
  find(text: string, digest: Buffer): Grant | undefined;
  /** It was used now, if it is one of these. */
  use(id: string): void;
  create(wish: Wish, by: string): Promise<NewKey>;
  list(): Promise<readonly ShownKey[]>;
  /** Undefined where nobody knows. */
  count(): number | undefined;
  rotate(id: string, grace: number): Promise<NewKey>;
  revoke(id: string): Promise<void>;
  close(): Promise<void>;
}

interface Known {
  readonly kept: Kept;
  readonly grant: Grant;
  readonly digest: Buffer;
}

export function isMade(text: string): boolean {
  return FORM.test(text);
}

/** `gone` is told of each key that was revoked, here or elsewhere. */
export async function openMadeKeys(node: AimoNode, gone: (id: string) => void): Promise<MadeKeys> {
  const { runtime } = node;
  const opened = await openStore(node, "guard-api-keys");
  let keys = new Map<string, Known>();
  const used = new Map<string, number>();
  /** Whose last use is not written yet. */
  const fresh = new Set<string>();
  let seen: { readonly store: Store; readonly version: unknown } | undefined;
  let down = false;
  let closed = false;
  let last: Promise<unknown> = Promise.resolve();
  let noted = runtime.now();
  let stop = (): void => undefined;

  /** One after the other, so that what was read before a change does not undo it. */
  function inTurn<T>(run: () => Promise<T>): Promise<T> {
    const done = last.then(run);
    last = done.catch(() => undefined);
    return done;
  }

  async function look(): Promise<void> {
    const store = opened.now;
    if (seen?.store === store && !opened.shared) return; // nobody else writes there
    try {
      const version = await versionIn(store.values);
      if (seen?.store !== store || seen.version !== version || down) await read(store);
      seen = { store, version };
      down = false;
    } catch (cause) {
      const error = AimoError.from(cause);
      // That it is away a store says itself.
      if (!down && error.code !== "OVERLOADED")
        node.log("error", "the keys in the store cannot be read", { detail: error.data.detail ?? error.message });
      down = true;
    }
  }

  async function read({ values }: Store): Promise<void> {
    const shelf = await readKeys(values, runtime.now(), drop);
    for (const id of keys.keys()) if (!shelf.keys.has(id)) drop(id);
    keys = new Map([...shelf.keys].map(([id, kept]) => [id, toKnown(kept)]));
    shelf.used.forEach(note);
  }

  function drop(id: string): void {
    used.delete(id);
    fresh.delete(id);
    if (keys.delete(id)) gone(id);
  }

  function note(at: number, id: string): void {
    if (at > (used.get(id) ?? 0)) used.set(id, at);
  }

  async function writeFresh(): Promise<void> {
    noted = runtime.now();
    const some = new Map([...fresh].map((id) => [id, used.get(id) ?? 0]));
    fresh.clear();
    if (some.size > 0) for (const id of await writeUsed(opened.now.values, some)) fresh.add(id);
  }

  async function turn(): Promise<void> {
    await look();
    if (!down && runtime.now() - noted >= NOTE) await writeFresh();
  }

  function wait(): void {
    stop = runtime.setTimeout(LOOK, () => void inTurn(turn).then(() => closed || wait()));
  }

  function bytes(n: number): Buffer {
    return Buffer.from(runtime.randomBytes(n));
  }

  async function keep(before: Omit<Kept, "hash">): Promise<NewKey> {
    const key = `${before.id}-${bytes(32).toString("base64url")}`;
    const kept = { ...before, hash: sha256(key).toString("hex") };
    await writeKey(opened.now.values, kept, newVersion());
    keys.set(kept.id, toKnown(kept));
    return { ...show(kept), key };
  }

  function newVersion(): string {
    return `v${bytes(8).toString("hex")}`;
  }

  function show(kept: Kept): ShownKey & Pick<Kept, "createdAt"> {
    const { id, name, scopes, expires = null, createdAt, createdBy } = kept;
    return { id, name, scopes, expires, ...allowanceOf(kept), createdAt, createdBy, lastUsed: used.get(id) ?? null };
  }

  /** As it is now, whichever node has changed it. */
  async function keptOf(id: string): Promise<Kept> {
    await look();
    const found = keys.get(id)?.kept;
    if (found) return found;
    throw new AimoError("INVALID_MESSAGE_FORMAT", `There is no key ${JSON.stringify(id.slice(0, 100))}.`, {
      status: 404,
      param: "id",
    });
  }

  await inTurn(look);
  wait();
  return {
    find(text, digest) {
      const [, id] = FORM.exec(text) ?? [];
      if (id === undefined) return undefined;
      if (seen === undefined || (down && opened.now.whenDown === "closed"))
        throw new AimoError("OVERLOADED", "The store of this node's keys is down; try again shortly.", {
          retryAfter: 1_000,
        });
      const found = keys.get(id);
      if (found === undefined) return undefined;
      if (timingSafeEqual(digest, found.digest)) return found.grant;
      const { hash, until } = found.kept.former ?? { hash: found.kept.hash, until: 0 };
      return runtime.now() < until && timingSafeEqual(digest, Buffer.from(hash, "hex")) ? found.grant : undefined;
    },
    use(id) {
      if (!keys.has(id)) return;
      note(Math.round(runtime.now()), id);
      fresh.add(id);
    },
    create: (wish, by) =>
      inTurn(async () => {
        const { name, ...given } = check(wish, wished, "The key");
        const now = Math.round(runtime.now());
        if ((given.expires ?? Infinity) <= now)
          throw new AimoError("INVALID_MESSAGE_FORMAT", "expires: must lie in the future.", { param: "expires" });
        if (!opened.shared && node.config.dataDir === undefined && keys.size === 0)
          node.log("warn", "without a dataDir or a store the keys that are made are forgotten when the node stops");
        return keep({ id: `ak-${bytes(6).toString("hex")}`, name, ...given, createdAt: now, createdBy: by });
      }),
    list: () =>
      inTurn(async () => {
        if (opened.shared) (await usedIn(opened.now.values, keys.keys())).forEach(note);
        return [...keys.values()].map(({ kept }) => show(kept)).toSorted((a, b) => a.createdAt - b.createdAt);
      }),
    count: () => (seen === undefined ? undefined : keys.size),
    rotate: (id, grace) =>
      inTurn(async () => {
        const { former: _, hash, ...before } = await keptOf(id);
        const former = { hash, until: Math.round(runtime.now()) + grace };
        return keep({ ...before, ...(grace > 0 && { former }) });
      }),
    revoke: (id) =>
      inTurn(async () => {
        await writeGone(opened.now.values, (await keptOf(id)).id, runtime.now(), newVersion());
        drop(id);
      }),
    async close() {
      closed = true;
      stop();
      await inTurn(writeFresh);
      await opened.close();
    },
  };
}

function toKnown(kept: Kept): Known {
  const { id, name, scopes, expires } = kept;
  const grant = { client: id, name, scopes, expires, allowance: allowanceOf(kept) };
  return { kept, grant, digest: Buffer.from(kept.hash, "hex") };
}
