import type { ReplyFrame } from "../frame.ts";
import type { Reply, Wait } from "../parts.ts";
import { unshared } from "./incoming.ts";

/** Frames for a reader that may be behind: in order, and each only when the one before was taken. */
export interface Inbox {
  put(frame: ReplyFrame): void;
  /** Does the reader ask to wait? */
  readonly behind: boolean;
  readonly empty: boolean;
  clear(): void;
}

export interface InboxEnds {
  /** So many bytes of chunks went to the reader. */
  taken(bytes: number): void;
  /** The reader falls behind, or has caught up. */
  behind(is: boolean): void;
}

/** What waits in it is bounded by the credit that the sender was given. */
export function createInbox(reply: Reply, ends: InboxEnds): Inbox {
  const queue: ReplyFrame[] = [];
  let waiting: Wait;

  function deliver(frame: ReplyFrame): void {
    // A WHOLE reply was counted when it was joined.
    const size = frame.messageType === "StreamChunk" ? frame.body.length : 0;
    waiting = reply.write(frame);
    if (waiting === undefined) return ends.taken(size);
    ends.behind(true);
    void waiting.then(() => {
      waiting = undefined;
      ends.behind(false);
      ends.taken(size);
      while (waiting === undefined && queue.length > 0) deliver(queue.shift() as ReplyFrame);
    });
  }

  return {
    put(frame) {
      if (waiting === undefined) deliver(frame);
      else queue.push(frame.messageType === "StreamChunk" ? { ...frame, body: unshared(frame.body) } : frame);
    },
    get behind() {
      return waiting !== undefined;
    },
    get empty() {
      return queue.length === 0;
    },
    clear: () => void (queue.length = 0),
  };
}
