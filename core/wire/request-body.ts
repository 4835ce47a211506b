import { AimoError } from "../error.ts";
import { Flag, malformed, type Message } from "./codec.ts";
import { createGrant } from "./credit.ts";

/** Request bytes that need no grant, and the window of the rest. */
const FREE = 65_536;

/** A request's body as it comes over a link, out of a room that all such bodies share. */
export interface RequestBody {
  /** `true` when this was the last of it. Throws INVALID_MESSAGE_FORMAT for what breaks the protocol, others to refuse the call. */
  add(message: Message): boolean;
  /** Gives the room back; the body, joined. Throws INVALID_MESSAGE_FORMAT when it is not as long as was said. */
  join(): Uint8Array;
  /** Gives the room back. */
  drop(): void;
}

export function createRequestBody(
  length: number | undefined,
  limit: number,
  room: { take(bytes: number): boolean; give(bytes: number): void },
  onLimit: (limit: number) => void,
): RequestBody {
  const grant = createGrant(FREE);
  let pieces: Uint8Array[] = [];
  let received = 0;
  let held = 0;

  function checkSize(size: number): void {
    if (size <= limit) return;
    const message = `The request's body is larger than ${limit} bytes (limits.body).`;
    throw new AimoError("PAYLOAD_TOO_LARGE", message, { detail: "payload_too_large" });
  }

  function drop(): void {
    room.give(held);
    held = 0;
    pieces = [];
  }

  checkSize(length ?? 0);
  return {
    add({ flags, offset, body }) {
      if (offset !== received || body.length === 0) throw malformed(`DATA at ${offset} instead of ${received}`);
      if (received + body.length > grant.limit) throw malformed(`DATA beyond the granted ${grant.limit}`);
      checkSize(received + body.length);
      if (!room.take(body.length)) {
        const message = "The node holds too many unfinished requests; try again shortly.";
        throw new AimoError("OVERLOADED", message, { retryAfter: 1_000, detail: "busy" });
      }
      received += body.length;
      held += body.length;
      pieces.push(Uint8Array.prototype.slice.call(body));
      if ((flags & Flag.LAST) !== 0) return true;
      const next = grant.take(body.length);
      if (next !== undefined) onLimit(next);
      return false;
    },
    join() {
      if (length !== undefined && length !== received)
        throw malformed(`a body of ${received} instead of ${length} bytes`);
      const body = pieces.length === 1 ? (pieces[0] as Uint8Array) : Buffer.concat(pieces, received);
      drop();
      return body;
    },
    drop,
  };
}
