import { AimoError } from "../error.ts";
import { createAdmission } from "./admission.ts";
import type { Link, LinkEvents } from "../parts.ts";
import { decodeMessage, encodeHead, encodeMessage, malformed, Type, type Message } from "./codec.ts";
import { decodeHead, type Head } from "./heads.ts";
import { createOutbox, type Outbox } from "./outbox.ts";
import type { Session, WireKernel } from "./session.ts";

/** ms (PROTOCOL §3) */
const HELLO_WITHIN = 3_000;
/** It is kept as long as the link. bytes */
const MAX_HELLO = 16_384;
export const TICK = 500;
const PING_AFTER = 1_000;
const SUSPECT_AFTER = 1_500;
const CLOSE_AFTER = 5_000;
const PINGS_PER_SECOND = 20;
const ADVERTS_PER_SECOND = 5;
/** Of third nodes, from a relay; it sends half as many. */
const FORWARDS_PER_SECOND = 200;
const FORWARDS_PER_TICK = 50;
const IDLE_AFTER = 60_000;

/** A link with the core's half: HELLO first, pings, limits, and the outbox that one `send` a turn empties. */
export interface AttachedLink {
  readonly peer: string;
  readonly via: string;
  readonly rank: number;
  readonly dialled: boolean;
  /** For one call. */
  readonly single: boolean;
  readonly outbox: Outbox;
  /** An advert of a third node, by its peer id: only the newest goes out, at the next tick. */
  forward(peer: string, message: Uint8Array): void;
  /** Known with the peer's HELLO. */
  readonly session: Session | undefined;
  /** Silent for 1.5 s. */
  readonly suspect: boolean;
  /** Silent, or its transport goes: no new calls, and those it has are better off on another. */
  readonly spent: boolean;
  /** `late`: our own loop hung, so silence says nothing. */
  tick(late: boolean): void;
  /** A link for one call alone, where the transport makes such. */
  readonly fork: ((home: Session) => Promise<AttachedLink>) | undefined;
  /** The session it was made for; the peer's HELLO confirms it. */
  readonly home: Session | undefined;
  /** One side has said BYE. A peer that dies says nothing, and looks like a clean close. */
  readonly parted: boolean;
  /** Why the peer's new calls are not taken over it, if they are not. */
  readonly refused: AimoError | undefined;
  /** The plugins are asked anew whether the peer is taken. */
  review(): void;
  /** Tells the peer why, then closes; with `error` at once. */
  bye(code: string, message: string, error?: AimoError): void;
}

export interface LinkEnds {
  /** Does its transport go? */
  leaving(): boolean;
  /** A link for one call was made. */
  forked(link: AttachedLink): void;
  hello(link: AttachedLink, head: Head<typeof Type.HELLO>): Session;
  advert(link: AttachedLink, head: Head<typeof Type.ADVERT>): void;
  closed(link: AttachedLink, error: AimoError | undefined): void;
}

export function attach(
  link: Link,
  peer: string,
  kernel: WireKernel,
  ends: LinkEnds,
  home?: Session,
): { attached: AttachedLink; events: LinkEvents } {
  const { identity, instance, runtime, settings } = kernel;
  const outbox = createOutbox(link, runtime);
  let session: Session | undefined;
  let open = true;
  let parted = false;
  let quiet = 0; // ms since something was received
  let heard = false;
  let idle = 0; // ms without a call
  const forwards = new Map<string, Uint8Array>();
  const budget = { pings: PINGS_PER_SECOND, adverts: ADVERTS_PER_SECOND, forwards: FORWARDS_PER_SECOND };
  let budgetAge = 0;

  const { calls, body } = settings.limits;
  const admission = createAdmission(kernel, peer, link.single === true, {
    enter: (head) => void (open && (session = ends.hello(attached, head))),
    message: (bytes) => events.message(bytes),
    refuse: (error) => attached.bye("refused", error.message, error),
  });
  const hello = { ...admission.said, v: 1, peer: identity.peerId, instance, features: [], limits: { calls, body } };
  outbox.control(encodeHead(Type.HELLO, 0, 0, hello));
  const stopHello = runtime.setTimeout(HELLO_WITHIN, () => {
    const error = new AimoError("NETWORK_ERROR", `the peer said no HELLO within ${HELLO_WITHIN} ms`);
    attached.bye("no_hello", error.message, error);
  });

  const attached: AttachedLink = {
    peer,
    via: link.via,
    rank: link.rank,
    dialled: link.dialled,
    single: link.single === true,
    outbox,
    get fork() {
      return link.fork && fork;
    },
    home,
    get session() {
      return session;
    },
    get parted() {
      return parted;
    },
    get suspect() {
      return !heard && quiet >= SUSPECT_AFTER;
    },
    get spent() {
      return attached.suspect || ends.leaving() || admission.parting?.code === "refused";
    },
    get refused() {
      const { code, message } = admission.parting ?? {};
      return code === "refused" ? new AimoError("FORBIDDEN", message as string, { detail: "forbidden" }) : undefined;
    },
    forward: (other, message) => void forwards.set(other, message),
    tick(late) {
      quiet = heard || late ? 0 : quiet + TICK;
      heard = false;
      if ((budgetAge += TICK) >= 1_000) {
        budgetAge = 0;
        budget.pings = PINGS_PER_SECOND;
        budget.adverts = ADVERTS_PER_SECOND;
        budget.forwards = FORWARDS_PER_SECOND;
      }
      for (const [other, message] of [...forwards].slice(0, FORWARDS_PER_TICK)) {
        forwards.delete(other);
        outbox.control(message);
      }
      if (quiet >= CLOSE_AFTER) return end(new AimoError("NETWORK_ERROR", `the peer was silent for ${quiet} ms`));
      if (admission.parting && session?.uses(attached) !== true)
        return attached.bye(admission.parting.code, admission.parting.message);
      if (link.onDemand && link.dialled) {
        idle = session?.uses(attached) === false ? idle + TICK : 0;
        if (idle >= IDLE_AFTER) return attached.bye("closing", "the link is idle");
      }
      if (quiet >= PING_AFTER) outbox.control(encodeMessage(Type.PING, 0, 0, 0, runtime.randomBytes(8)));
    },
    review: () => admission.review(),
    bye(code, message, error) {
      if (!open) return;
      parted = true;
      outbox.flush(); // BYE is control: it must not overtake the end of a call
      outbox.control(encodeHead(Type.BYE, 0, 0, { code, message }));
      outbox.flush();
      end(error);
    },
  };

  async function fork(of: Session): Promise<AttachedLink> {
    let made: AttachedLink | undefined;
    await link.fork?.((single) => {
      const { attached: mine, events: its } = attach(single, peer, kernel, ends, of);
      made = mine;
      ends.forked(mine);
      return its;
    });
    return made as AttachedLink;
  }

  /** The peer broke the protocol. */
  function breakOff(error: AimoError): void {
    attached.bye(error.code === "FORBIDDEN" ? "cut_off" : "protocol_error", error.message, error);
  }

  function end(error: AimoError | undefined): void {
    if (!open) return;
    closed(error);
    link.close(error);
  }

  function closed(error: AimoError | undefined): void {
    if (!open) return;
    open = false;
    stopHello();
    outbox.close();
    ends.closed(attached, error);
  }

  function spend(what: keyof typeof budget): void {
    if (--budget[what] < 0) throw malformed(`more ${what} than a node may send in a second`);
  }

  function dispatch(message: Message): void {
    const { type, body: bytes } = message;
    if (session === undefined) {
      if (type !== Type.HELLO) throw malformed(`message ${type} before HELLO`);
      if (bytes.length > MAX_HELLO) throw malformed(`a HELLO of ${bytes.length} bytes`);
      const head = decodeHead(Type.HELLO, bytes);
      if (head.peer !== peer) throw malformed("HELLO names another peer than the link");
      stopHello();
      return admission.ask(head, bytes);
    }
    switch (type) {
      case Type.PING:
        spend("pings");
        if (bytes.length !== 8) throw malformed("a PING without its 8 bytes");
        return outbox.control(encodeMessage(Type.PONG, 0, 0, 0, bytes));
      case Type.PONG:
        return;
      case Type.DRAIN:
        decodeHead(Type.DRAIN, bytes);
        return session.drain();
      case Type.ADVERT: {
        const head = decodeHead(Type.ADVERT, bytes);
        spend(head.path?.length || head.gone ? "forwards" : "adverts");
        return ends.advert(attached, head);
      }
      case Type.BYE: {
        const { code, message: why } = decodeHead(Type.BYE, bytes);
        parted = true;
        return end(
          code === "closing"
            ? undefined
            : new AimoError("NETWORK_ERROR", `the peer closed the link: ${why.slice(0, 200)} (${code.slice(0, 40)})`, {
                detail: code.slice(0, 40),
              }),
        );
      }
      case Type.HELLO:
        throw malformed("a second HELLO");
      default:
        return session.message(attached, message);
    }
  }

  const events: LinkEvents = {
    message(bytes) {
      if (!open) return;
      const woke = attached.suspect;
      heard = true;
      if (woke) session?.gather(attached);
      try {
        if (admission.hold(bytes)) return;
        const message = decodeMessage(bytes);
        if (message !== undefined) dispatch(message);
      } catch (error) {
        breakOff(AimoError.from(error));
      }
    },
    closed,
  };
  return { attached, events };
}
