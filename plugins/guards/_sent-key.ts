import type { Headers } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";

declare module "aimo" {
  interface NodeHooks {
    /**
     * A guard asks whose a key is that it does not know itself. Call `claim` if yours is the guard that judges it: then
     * yours must admit it or throw, for nobody else will.
     */
    "auth:claim": (key: string, claim: () => void) => undefined;
  }
}

/** OpenAI's clients send a Bearer token, Anthropic's `x-api-key`. */
export function sentKey({ authorization = "", "x-api-key": apiKey = "" }: Readonly<Headers>): string | undefined {
  const bearer = /^bearer +(\S+) *$/i.exec(authorization)?.[1];
  return bearer ?? (apiKey.trim() || undefined);
}

/**
 * Will another guard judge this key? Asked by one that does not claim it itself; where nobody does it has to refuse. So
 * guards stand beside each other in any order, and none lets pass what no other one looks at.
 */
export function isForAnother(node: AimoNode, key: string): boolean {
  let claimed = false;
  void node.emit("auth:claim", key, () => void (claimed = true));
  return claimed;
}
