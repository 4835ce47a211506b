import type { Attempt, Call, Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { toFacts, verifyReceipt } from "../../core/wire/receipt.ts";

/** ms */
const KEPT = 600_000;
const CALLS = 10_000;

/** What was signed of the newest calls of clients. */
export interface Receipts {
  /** Of its attempts those count that have a receipt by the time that somebody asks. */
  add(call: Call): void;
  /** Throws CALL_NOT_FOUND unless this client made the call and a receipt has come. It is kept for 10 minutes after the end. */
  show(id: string, asker: Origin, node: Pick<AimoNode, "identity" | "runtime">): object;
}

interface Kept {
  readonly client: string | undefined;
  readonly attempts: readonly Attempt[];
}

export function createReceipts(): Receipts {
  const calls = new Map<string, Kept>();

  return {
    add({ id, origin, attempts }) {
      if (origin.kind !== "client" || calls.has(id)) return;
      calls.set(id, { client: origin.client, attempts });
      if (calls.size > CALLS) calls.delete(calls.keys().next().value as string);
    },
    show(id, { client }, { identity, runtime }) {
      const found = calls.get(id);
      const endedAt = Math.max(...(found?.attempts ?? []).map((attempt) => attempt.endedAt ?? Infinity));
      if (found === undefined || found.client !== client || endedAt + KEPT <= runtime.now())
        throw new AimoError(
          "CALL_NOT_FOUND",
          "There is no receipt of such a call of yours. They are kept for 10 minutes, and that of a reply that was cancelled comes a moment after it.",
        );
      const data = found.attempts.flatMap(({ target, receipt, modified = false }) => {
        if (receipt === undefined) return [];
        const [signed, signature] = [receipt.raw, receipt.signature].map((bytes) =>
          Buffer.from(bytes).toString("base64"),
        );
        const verified = verifyReceipt(receipt, identity);
        return [{ ...toFacts(receipt), object: "receipt", target, receipt: signed, signature, verified, modified }];
      });
      return { object: "list", data };
    },
  };
}
