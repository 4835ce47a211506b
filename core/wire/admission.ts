import { encode } from "cborg";
import { AimoError } from "../error.ts";
import type { Awaitable } from "../parts.ts";
import type { Type } from "./codec.ts";
import type { Head } from "./heads.ts";
import type { WireKernel } from "./session.ts";

/** What a peer may say before it is admitted; it need not wait for anything. bytes */
const HELD = 1_048_576;

/** Whether the peer of a link is taken, which is the plugins' to say. */
export interface Admission {
  /** What they add to this node's HELLO. */
  readonly said: object;
  /** Asks them; the link goes on at once where they know at once, and with what came meanwhile where they do not. */
  ask(head: Head<typeof Type.HELLO>): void;
  /** Keeps what comes before they have said; false when it need not be kept. Throws when it is too much. */
  hold(bytes: Uint8Array): boolean;
  /** Asks again, on a link that is up. */
  review(): void;
  /** Why the link is to go as soon as no call uses it. */
  readonly parting: { readonly code: string; readonly message: string } | undefined;
}

export interface AdmissionEnds {
  enter(head: Head<typeof Type.HELLO>): void;
  message(bytes: Uint8Array): void;
  refuse(error: AimoError): void;
}

/** `single`: a link for one call needs no introduction, the one beside it has made it. */
export function createAdmission(
  { hooks }: Pick<WireKernel, "hooks">,
  peer: string,
  single: boolean,
  ends: AdmissionEnds,
): Admission {
  const said = greet();
  let hello: Head<typeof Type.HELLO> | undefined;
  let held: Uint8Array[] | undefined;
  let bytes = 0;
  let parting: Admission["parting"];

  function greet(): object {
    return single ? {} : greeting(hooks, peer);
  }

  /** True while they have not said. */
  function judge(head: Head<typeof Type.HELLO>, then: () => unknown, refuse: (error: AimoError) => void): boolean {
    let admitted: Awaitable<void>;
    try {
      admitted = hooks.guard("peer:admit", peer, head);
    } catch (cause) {
      refuse(AimoError.from(cause));
      return false;
    }
    if (admitted === undefined) then();
    else admitted.then(then).catch((cause: unknown) => refuse(AimoError.from(cause)));
    return admitted !== undefined;
  }

  return {
    said,
    ask(head) {
      hello = { ...head, instance: Uint8Array.from(head.instance) }; // not the buffer that it came in
      const enter = (): void => {
        const late = held ?? [];
        held = undefined;
        ends.enter(head);
        for (const message of late) ends.message(message);
      };
      if (judge(head, enter, ends.refuse)) held = [];
    },
    hold(message) {
      if (held === undefined) return false;
      if ((bytes += message.length) > HELD)
        throw new AimoError("OVERLOADED", "too much came before the peer was admitted");
      held.push(Uint8Array.from(message));
      return true;
    },
    review() {
      if (hello === undefined || held !== undefined) return;
      const outdated = Buffer.compare(encode(greet()), encode(said)) !== 0;
      // Who has something else to say begins anew: a link is made again by whoever wants one.
      if (outdated) parting ??= { code: "closing", message: "this node has something else to say of itself" };
      const refuse = ({ message }: AimoError): void => void (parting = { code: "refused", message });
      judge(hello, () => parting?.code === "refused" && (parting = undefined), refuse);
    },
    get parting() {
      return parting;
    },
  };
}

/** What plugins add to what the node says of itself, to one peer or to all. */
export function greeting(hooks: WireKernel["hooks"], peer?: string): Record<string, unknown> {
  const said: Record<string, unknown> = {};
  hooks.tell("peer:greet", said, peer);
  return said;
}
