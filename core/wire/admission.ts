import { encode } from "cborg";
import { AimoError } from "../error.ts";
import type { Awaitable } from "../parts.ts";
import { Type } from "./codec.ts";
import { decodeHead, type Head } from "./heads.ts";
import type { WireKernel } from "./session.ts";

/** What a peer may say before it is admitted; it need not wait for anything. bytes */
const HELD = 1_048_576;
/** What keeping a message costs beside its bytes. */
const EACH = 128;

/** Whether the peer of a link is taken, which is the plugins' to say. */
export interface Admission {
  /** What they add to this node's HELLO. */
  readonly said: object;
  /** Asks them; the link goes on at once where they know at once, and with what came meanwhile where they do not. */
  ask(head: Head<typeof Type.HELLO>, raw: Uint8Array): void;
  /** Keeps what comes before they have said; false when it need not be kept. Throws when it is too much. */
  hold(bytes: Uint8Array): boolean;
  /** Asks again: at once on a link that is up, else before it is. */
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
  let hello: Uint8Array | undefined; // what it becomes when it is read may be many times larger
  let held: Uint8Array[] | undefined;
  let bytes = 0;
  let again = false; // what they say may not be true any more when they have said it
  let reviews = 0; // what is said to an earlier one does not count
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

  function review(): void {
    // Who has something else to say begins anew: a link is made again by whoever wants one.
    const isOld = Buffer.compare(encode(greet()), encode(said)) !== 0;
    const closing = isOld ? { code: "closing", message: "this node has something else to say of itself" } : undefined;
    if (hello === undefined) return void (parting = closing);
    if (held !== undefined) return void (again = true);
    const mine = ++reviews;
    const decide = (next: Admission["parting"]): void => void (mine === reviews && (parting = next));
    judge(
      decodeHead(Type.HELLO, hello),
      () => decide(closing),
      ({ message }) => decide({ code: "refused", message }),
    );
  }

  return {
    said,
    ask(head, raw) {
      hello = Uint8Array.from(raw);
      const enter = (): void => {
        if (again) {
          again = false;
          return void judge(head, enter, ends.refuse);
        }
        const late = held ?? [];
        held = undefined;
        ends.enter(head);
        for (const message of late) ends.message(message);
      };
      if (judge(head, enter, ends.refuse)) held = [];
    },
    hold(message) {
      if (held === undefined) return false;
      if ((bytes += message.length + EACH) > HELD)
        throw new AimoError("OVERLOADED", "too much came before the peer was admitted");
      held.push(Uint8Array.from(message));
      return true;
    },
    review,
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
