import type { Attempt, Call, Origin } from "../../core/call.ts";
import type { AimoNode } from "../../core/node.ts";
import { toFacts, verifyReceipt } from "../../core/wire/receipt.ts";
import { createRecent } from "./_recent.ts";

/** What was signed of the newest calls of clients. */
export interface Receipts {
  /** Of its attempts those count that have a receipt by the time that somebody asks. */
  add(call: Call): void;
  /** All that there is to say of its attempts is known by now. */
  update(call: Call): void;
  /** Throws CALL_NOT_FOUND unless this client made the call and a receipt has come. It is kept for 10 minutes after the end. */
  show(id: string, asker: Origin, node: Pick<AimoNode, "identity" | "runtime">): object;
}

export function createReceipts(): Receipts {
  const calls = createRecent(
    "There is no receipt of such a call of yours. They are kept for 10 minutes, and that of a reply that was cancelled comes a moment after it.",
    ({ target, endedAt, receipt, modified }: Attempt) => ({ target, endedAt, receipt, modified }),
  );

  return {
    add: (call) => calls.add(call, {}),
    update: calls.update,
    show(id, asker, { identity, runtime }) {
      const data = calls.find(id, asker, runtime).attempts.flatMap(({ target, receipt, modified = false }) => {
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
