import type { Attempt, Call, Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { Runtime } from "../../core/runtime.ts";

/** ms */
const KEPT = 600_000;
const CALLS = 10_000;

/** The newest calls of clients: each for the one who made it, for 10 minutes after its end. */
export interface Recent<T, K> {
  /** An answer that goes on at another provider is several calls of one id: the facts of the last one count. */
  add(call: Call, facts: T): void;
  /** Looks again at the attempts of a call that is kept: a receipt may come after its end. */
  update(call: Call): void;
  /** Throws CALL_NOT_FOUND. */
  find(id: string, asker: Origin, runtime: Pick<Runtime, "now">): T & { readonly attempts: readonly K[] };
}

interface Entry<T, K> {
  readonly client: string | undefined;
  facts: T;
  readonly runs: { readonly of: WeakRef<Call["attempts"]>; attempts: readonly K[] }[];
}

/**
 * `missing`: what whoever asks for another call is told. `of`: what of an attempt is kept, which must not be its error:
 * that would keep a stack, and with it most of what the call consisted of.
 */
export function createRecent<T extends object, K extends { readonly endedAt: number | undefined }>(
  missing: string,
  of: (attempt: Attempt, call: Call) => K,
): Recent<T, K> {
  const calls = new Map<string, Entry<T, K>>();

  function keep(entry: Entry<T, K>, call: Call): void {
    const attempts = call.attempts.map((attempt) => of(attempt, call));
    const known = entry.runs.find((run) => run.of.deref() === call.attempts);
    if (known) known.attempts = attempts;
    else entry.runs.push({ of: new WeakRef(call.attempts), attempts });
  }

  return {
    add(call, facts) {
      const { id, origin } = call;
      if (origin.kind !== "client") return;
      const entry = calls.get(id) ?? { client: origin.client, facts, runs: [] };
      entry.facts = facts;
      keep(entry, call);
      calls.set(id, entry);
      if (calls.size > CALLS) calls.delete(calls.keys().next().value as string);
    },
    update(call) {
      const entry = calls.get(call.id);
      if (entry) keep(entry, call);
    },
    find(id, { client }, runtime) {
      const found = calls.get(id);
      const attempts = found?.runs.flatMap((run) => run.attempts) ?? [];
      const endedAt = Math.max(...attempts.map((attempt) => attempt.endedAt ?? Infinity));
      if (found === undefined || found.client !== client || endedAt + KEPT <= runtime.now())
        throw new AimoError("CALL_NOT_FOUND", missing);
      return { ...found.facts, attempts };
    },
  };
}
