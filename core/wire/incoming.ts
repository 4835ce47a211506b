import { createHash } from "node:crypto";
import { AimoError, toFrame } from "../error.ts";
import { MAX_CHUNK, type Receipt, type ReplyFrame, type RequestFrame, type ResponseFrame } from "../frame.ts";
import { EMPTY, Flag, malformed, type Type } from "./codec.ts";
import type { Head } from "./heads.ts";
import { readReceipt, sha256 } from "./receipt.ts";

/** A reply as it comes over a link: checks offsets, joins what was cut, and knows at the end whether it is whole. */
export interface Incoming {
  /** The head has come. */
  readonly begun: boolean;
  /** Bytes so far. */
  readonly received: number;
  /** It is joined, and checked, before any of it is passed on. */
  readonly whole: boolean;
  /** A head to pass on; nothing for a WHOLE reply, or one that is repeated. */
  response(flags: number, head: Head<typeof Type.RESPONSE>): ReplyFrame | undefined;
  /** A chunk to pass on, when this completes one. `limit` is the credit given. */
  data(flags: number, offset: number, bytes: Uint8Array, limit: number): ReplyFrame | undefined;
  /** The last frame: an error when total, digest and receipt do not agree, for then the reply is a loss. */
  end(total: number, head: Head<typeof Type.END>): Ending;
  /** What is signed of a part of it. Throws INVALID_MESSAGE_FORMAT. */
  part(signed: { readonly receipt?: unknown; readonly signature?: unknown }): Omit<Ending, "last">;
}

export interface Ending {
  readonly last: ReplyFrame;
  readonly receipt?: Receipt;
  /** What the provider signed, or said, that is not so. A reply that was cut is no lie. */
  readonly lie?: string;
}

export interface IncomingInit {
  readonly request: RequestFrame;
  /** Peer id of the node whose receipt it must be. */
  readonly provider: string;
  readonly window: number;
  /** bytes */
  readonly maxWhole: number;
  /** Checks the signature before the end is passed on; left out where the link proves the provider. */
  readonly verify: ((receipt: Receipt) => boolean) | undefined;
}

export function createIncoming({ request, provider, window, maxWhole, verify }: IncomingInit): Incoming {
  const { requestId } = request;
  const hash = createHash("sha256");
  const joinUpTo = Math.min(MAX_CHUNK, window / 2);
  let head: Head<typeof Type.RESPONSE> | undefined;
  let whole = false;
  let received = 0;
  let pieces: Uint8Array[] = []; // of a WHOLE reply, or of a chunk that goes on
  let joined = 0;

  function headFrame(from: Head<typeof Type.RESPONSE>, body: Uint8Array, streamDone: boolean): ResponseFrame {
    const { status, contentType, headers } = from;
    return {
      messageType: "Response",
      requestId,
      statusCode: status,
      headers: { ...headers },
      contentType,
      body,
      streamDone,
    };
  }

  function chunk(body: Uint8Array, flags: number, partial: boolean): ReplyFrame {
    const preamble = (flags & Flag.PRE) !== 0;
    return { messageType: "StreamChunk", requestId, chunkIndex: 0, body, partial, preamble, isFinal: false };
  }

  /** What in a receipt is not so. The provider may have signed for more than it still sent, but never for less. */
  function lieIn(receipt: Receipt): string | undefined {
    if (receipt.request !== requestId || receipt.provider !== provider) return "its receipt is for another call";
    if (!Buffer.from(receipt.requestDigest).equals(sha256(request.body))) return "its receipt is for another request";
    if (receipt.bytes < received) return `it has ${received} of ${receipt.bytes} bytes`;
    if (receipt.bytes === received && !hash.digest().equals(receipt.digest)) return "its digest is wrong";
    return verify?.(receipt) === false ? "its receipt is signed wrongly" : undefined;
  }

  function lastFrame(receipt: Receipt): ReplyFrame {
    const body = Buffer.concat(pieces, joined);
    if (whole && head !== undefined) return { ...headFrame(head, body, true), receipt };
    return { messageType: "StreamChunk", requestId, chunkIndex: 0, body, isFinal: true, receipt };
  }

  return {
    get begun() {
      return head !== undefined;
    },
    get received() {
      return received;
    },
    get whole() {
      return whole;
    },
    response(flags, next) {
      if (head !== undefined) return undefined;
      head = next;
      whole = (flags & Flag.WHOLE) !== 0;
      if (!whole) return headFrame(next, EMPTY, false);
      if (next.bodyLength === undefined || next.bodyLength > maxWhole)
        throw malformed(`a whole reply of ${next.bodyLength} bytes`);
    },
    data(flags, offset, bytes, limit) {
      const { length } = bytes;
      if (head === undefined) throw malformed("DATA before RESPONSE");
      if (length === 0 || length > MAX_CHUNK) throw malformed(`DATA of ${length} bytes`);
      if (offset !== received) throw malformed(`DATA at ${offset} instead of ${received}`);
      received += length;
      if (received > limit) throw malformed(`DATA beyond the granted ${limit}`);
      if (whole && received > (head.bodyLength ?? 0)) throw malformed("more DATA than a whole reply was to have");
      hash.update(bytes);
      const more = (flags & Flag.MORE) !== 0;
      if (!whole && !more && pieces.length === 0) return chunk(bytes, flags, false);
      pieces.push(unshared(bytes));
      joined += length;
      if (whole || (more && joined < joinUpTo)) return undefined;
      const body = Buffer.concat(pieces, joined);
      pieces = [];
      joined = 0;
      return chunk(body, flags, more);
    },
    end(total, { receipt: raw, signature }) {
      const receipt = readReceipt(raw, signature);
      const { outcome, bytes } = receipt;
      const complete = outcome === "complete";
      const short = complete && (total !== received || bytes !== received);
      const lie = short ? `it has ${received} of ${Math.max(total, bytes)} bytes` : lieIn(receipt);
      const flaw = lie ?? (!complete ? `its outcome is ${outcome}` : head === undefined ? "it has no head" : undefined);
      if (flaw === undefined) return { last: lastFrame(receipt), receipt };
      const loss = new AimoError("STREAM_INTERRUPTED", `The reply is not whole: ${flaw}.`);
      const last = toFrame(loss, requestId);
      return lie === undefined ? { last: { ...last, receipt }, receipt } : { last, lie };
    },
    part({ receipt: raw, signature }) {
      if (raw === undefined && signature === undefined) return {};
      if (!(raw instanceof Uint8Array && signature instanceof Uint8Array))
        throw malformed("a receipt that is no bytes");
      const receipt = readReceipt(raw, signature);
      const lie = lieIn(receipt);
      return lie === undefined ? { receipt } : { lie };
    },
  };
}

/** What is held longer than a turn is copied out of a large receive buffer, which it would keep alive. */
export function unshared(bytes: Uint8Array): Uint8Array {
  return bytes.byteLength * 2 > bytes.buffer.byteLength ? bytes : Uint8Array.prototype.slice.call(bytes);
}
