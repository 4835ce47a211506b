import { z } from "zod";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { TrustService } from "../guards/trust.ts";
import { parse } from "./_exchange.ts";

export function showInvites(node: AimoNode): object {
  return { data: [...trustOf(node).invited] };
}

const question = z.strictObject({ which: z.string().min(1) });

/** What `POST /invites/revoke` asks. Throws INVALID_MESSAGE_FORMAT. */
export async function revokeInvite(node: AimoNode, body: Uint8Array): Promise<object> {
  return { id: await trustOf(node).revoke(parse(body, question).which) };
}

function trustOf(node: AimoNode): TrustService {
  const trust = node.find("trust");
  if (trust) return trust;
  const message = "This node has no trust(), so that nobody is invited.";
  throw new AimoError("INVALID_MESSAGE_FORMAT", message, { status: 404 });
}
