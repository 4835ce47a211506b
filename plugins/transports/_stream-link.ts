import { setTimeout as pause } from "node:timers/promises";
import type { Connection, Stream } from "@libp2p/interface";
import { AimoError } from "../../core/error.ts";
import type { Link, LinkEvents, Wait } from "../../core/parts.ts";
import { MAX_MESSAGE } from "../../core/wire/codec.ts";
import { createDeframer, joinFramed } from "../../core/wire/framing.ts";

const CAPS = { ordered: true, reliable: true, private: true, backpressure: true, maxMessage: MAX_MESSAGE } as const;
/** ms that a closing stream gets to send what lies in it. */
export const LINGER = 1_000;

export interface OpenLink {
  readonly link: Link;
  /** Both sides have closed: what was sent has arrived. */
  readonly ended: Promise<void>;
  listen(events: LinkEvents, gone: () => void): void;
}

export function createLink(
  connection: Connection,
  raw: Stream,
  which: Pick<Link, "dialled" | "single" | "fork">,
): OpenLink {
  // Over its limit the other side leaves us with a stream that is dead already.
  if (raw.status !== "open") throw new Error(`the stream is ${raw.status}`);
  let events: LinkEvents | undefined;
  let gone: (() => void) | undefined;
  let closed = false;
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  raw.addEventListener("close", () => end());

  function shut(error?: AimoError): void {
    if (closed) return;
    closed = true;
    events?.closed(error);
    gone?.();
  }

  const link: Link = {
    peer: connection.remotePeer.toString(),
    via: "stream",
    rank: 0,
    dialled: which.dialled,
    ...(which.single && { single: true }),
    get fork() {
      return which.fork;
    },
    caps: CAPS,
    send(messages): Wait {
      if (raw.writeStatus !== "writable") return undefined;
      try {
        return raw.send(joinFramed(messages)) ? undefined : drained(raw);
      } catch (cause) {
        link.close(new AimoError("NETWORK_ERROR", "the stream failed", { cause }));
      }
    },
    close(error) {
      if (closed) return;
      shut(error);
      // What was sent still arrives, a BYE among it; a peer that is silent or breaks the protocol then loses the connection.
      const done = raw
        .close({ signal: AbortSignal.timeout(LINGER) })
        .then(undefined, () => raw.abort(new Error("closing")));
      if (error === undefined || which.single) return;
      // libp2p throws away what a peer has not read when its connection goes: one that is refused is to know why.
      const told = error.code === "FORBIDDEN" ? Promise.race([ended, pause(LINGER, undefined, { ref: false })]) : done;
      void told.finally(() => connection.abort(error));
    },
  };

  return {
    link,
    ended,
    listen(given, onGone) {
      events = given;
      gone = onGone;
      const take = createDeframer((bytes) => given.message(bytes));
      raw.addEventListener("message", ({ data }) => {
        if (closed) return;
        try {
          take(data instanceof Uint8Array ? data : data.subarray());
        } catch (error) {
          link.close(AimoError.from(error));
        }
      });
      raw.addEventListener("remoteCloseWrite", () => {
        shut();
        void raw.close().then(undefined, () => raw.abort(new Error("closing")));
      });
      // A killed peer looks like a clean close: sessions know from the receipt what was whole.
      raw.addEventListener("close", ({ error }) =>
        shut(error && new AimoError("NETWORK_ERROR", error.message, { cause: error })),
      );
    },
  };
}

/** `onDrain()` of libp2p 3.3 waits only once in a stream's life; the event comes each time. */
function drained(raw: Stream): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      raw.removeEventListener("drain", done);
      raw.removeEventListener("close", done);
      resolve();
    };
    raw.addEventListener("drain", done);
    raw.addEventListener("close", done);
  });
}
