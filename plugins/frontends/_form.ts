import type { AimoError } from "../../core/error.ts";
import type { Headers, Receipt } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { NewRequest, OpenFrom, Wait } from "../../core/parts.ts";
import { toFacts } from "../../core/wire/receipt.ts";
import type { Client } from "./_client.ts";
import { retryIn } from "./_exchange.ts";

/** What is given to whoever says the answer to one call. */
export interface Teller {
  readonly requestId: string;
  /** `last`: the answer is over. What is said after that is not sent. */
  say(text: string, last?: boolean): Wait;
  /** Ends the call: its answer cannot be told. */
  fail(error: AimoError): void;
  /** Of the whole answer, once it has ended. */
  readonly receipt?: Receipt | undefined;
  /** Offset of the first byte, of an answer that its client may come back for. */
  readonly offset?: number | undefined;
  readonly limit: number;
}

/** What a client wants with a message. `key` is the JSON of what it calls its call. */
export type Wish =
  | {
      readonly kind: "call";
      readonly key: string;
      readonly keeps: boolean;
      readonly request: NewRequest;
      readonly from: Pick<OpenFrom, "routers">;
      readonly tell: (teller: Teller) => Client;
    }
  | {
      readonly kind: "resume";
      readonly key: string;
      readonly id: string;
      readonly offset: number;
      readonly tell: (teller: Teller) => Client;
    }
  | { readonly kind: "cancel"; readonly key: string }
  | { readonly kind: "nothing" };

/** A way to write messages: both sides of a call keep to the one in which it was asked. */
export interface Form {
  /** Throws INVALID_MESSAGE_FORMAT. `bytes` are those of the message; `headers` those of the socket's own request. */
  read(value: Readonly<Record<string, unknown>>, bytes: Buffer, headers: Readonly<Headers>, node: AimoNode): Wish;
  /** What a client may have called the call that a message is about, as JSON, else null. */
  keyOf(value: Readonly<Record<string, unknown>>): string;
  /** What a message gets that is wrong. */
  refusal(error: AimoError, key: string, node: AimoNode): string;
}

/** With the seconds after which to come back. */
export function headersOf({ data }: AimoError, headers: Headers = {}): Headers {
  if (data.retryAfter === undefined) return headers;
  return { ...headers, "retry-after": String(retryIn(data.retryAfter)) };
}

/** As `GET /v1/receipts/:id` tells it, for `aimo verify`. */
export function toldReceipt(receipt: Receipt): object {
  const [signed, signature] = [receipt.raw, receipt.signature].map((bytes) => Buffer.from(bytes).toString("base64"));
  return { ...toFacts(receipt), receipt: signed, signature };
}
