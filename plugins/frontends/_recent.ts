import type { Attempt, Call, Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { Runtime } from "../../core/runtime.ts";

/** ms */
const KEPT = 600_000;
const CALLS = 10_000;

/** The newest calls of clients: each for the one who made it, for 10 minutes after its end. */
export interface Recent<T> {
  /** An answer that goes on at another provider is several calls of one id: the facts of the last one count. */
  add(call: Call, facts: T): void;
  /** With the attempts that there are by now. Throws CALL_NOT_FOUND. */
  find(id: string, asker: Origin, runtime: Pick<Runtime, "now">): T & { readonly attempts: readonly Attempt[] };
}

/** `missing`: what whoever asks for another call is told. */
export function createRecent<T extends object>(missing: string): Recent<T> {
  const calls = new Map<string, { client: string | undefined; runs: readonly (readonly Attempt[])[]; facts: T }>();

  return {
    add({ id, origin, attempts }, facts) {
      if (origin.kind !== "client") return;
      const { runs = [] } = calls.get(id) ?? {};
      calls.set(id, { client: origin.client, runs: runs.includes(attempts) ? runs : [...runs, attempts], facts });
      if (calls.size > CALLS) calls.delete(calls.keys().next().value as string);
    },
    find(id, { client }, runtime) {
      const found = calls.get(id);
      const attempts = found?.runs.flat() ?? [];
      const endedAt = Math.max(...attempts.map((attempt) => attempt.endedAt ?? Infinity));
      if (found === undefined || found.client !== client || endedAt + KEPT <= runtime.now())
        throw new AimoError("CALL_NOT_FOUND", missing);
      return { ...found.facts, attempts };
    },
  };
}
