import type { AimoError, ErrorCode, NewRequest, Outcome, ReplyFrame, Wait } from "../../core/index.ts";

/** A simulated client's call, and what came of it. */
export interface SimulatedReply {
  /** `call0`, `call1`, … */
  readonly name: string;
  /** The node that was asked. */
  readonly node: string;
  readonly request: NewRequest;
  /** Body bytes so far. */
  readonly received: number;
  /** The body so far. */
  readonly text: string;
  readonly outcome: Outcome | undefined;
  /** It has its outcome, or its node was killed: then nobody waits for it any more. */
  readonly over: boolean;
  /** The client leaves. */
  cancel(): void;
}

/** No fault of the network, of a provider or of a client makes one of these. */
export const OURS: ReadonlySet<ErrorCode> = new Set([
  "INTERNAL",
  "PLUGIN_FAILED",
  "INVALID_MESSAGE_FORMAT",
  "FORBIDDEN",
]);

/** Reads a reply as it comes, and finds what is wrong with it. */
export interface Reader {
  readonly received: number;
  readonly text: string;
  readonly flaws: readonly string[];
  write(frame: ReplyFrame): Wait;
  /** The call is over. `left`: the client left before. */
  end(outcome: Outcome, left: boolean): void;
}

/** `behind`: what the reader makes the writer wait for, if it does. */
export function createReader(expected: Uint8Array | undefined, behind: () => Wait): Reader {
  const flaws: string[] = [];
  const pieces: Uint8Array[] = [];
  let received = 0;
  let chunks = 0;
  let begun = false;
  let wrong = false;
  let end: "whole" | ErrorCode | undefined;

  function take(body: Uint8Array): void {
    const there = expected?.subarray(received, received + body.length);
    pieces.push(Uint8Array.from(body));
    // The first that is wrong says it all.
    if (there && !wrong && Buffer.compare(there, body) !== 0) flaws.push(`wrong bytes at ${received}`);
    wrong = flaws.length > 0;
    received += body.length;
  }

  return {
    flaws,
    get received() {
      return received;
    },
    get text() {
      return Buffer.concat(pieces).toString();
    },
    write(frame) {
      if (end !== undefined) flaws.push(`a ${frame.messageType} behind the end`);
      switch (frame.messageType) {
        case "Error":
          end = frame.code;
          return undefined;
        case "Response":
          if (begun) flaws.push("a second head");
          begun = true;
          if (frame.streamDone) end = "whole";
          break;
        case "StreamChunk":
          if (!begun) flaws.push("a chunk without a head");
          if (frame.chunkIndex !== chunks++) flaws.push(`chunk ${frame.chunkIndex} in place of ${chunks - 1}`);
          if (frame.isFinal) end = "whole";
      }
      if (end === "whole" && frame.receipt === undefined) flaws.push("an end without a receipt");
      take(frame.body);
      return behind();
    },
    end({ status, error }, left) {
      if (status === "ok" && end !== "whole") flaws.push("a silent end");
      if (status === "ok" && expected && received !== expected.length)
        flaws.push(`it is ok with ${received} of ${expected.length} bytes`);
      if (status === "error" && end !== error?.code) flaws.push(`it ends with ${end} instead of ${error?.code}`);
      if (status === "error" && OURS.has(error?.code as ErrorCode)) flaws.push(`an error of ours: ${say(error)}`);
      if (status === "cancelled" && (!left || end !== undefined)) flaws.push(`it was cancelled and has the end ${end}`);
    },
  };
}

export function say(error: AimoError | undefined): string {
  return error === undefined ? "" : `${error.code} ${error.message}`;
}
