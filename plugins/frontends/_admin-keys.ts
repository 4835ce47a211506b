import { z } from "zod";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { wished } from "../guards/_grant.ts";
import { rotation } from "../guards/_keys-api.ts";
import type { KeyService } from "../guards/api-keys.ts";
import { parse } from "./_exchange.ts";

const BY = "aimo keys";
const id = z.string().min(1);
const toRotate = rotation.extend({ id });
const toRevoke = z.strictObject({ id });

export async function listKeys(node: AimoNode): Promise<object> {
  return { data: await keysOf(node).list() };
}

/** Each throws INVALID_MESSAGE_FORMAT, also for a key that is not there. */
export function makeKey(node: AimoNode, body: Uint8Array): Promise<object> {
  return keysOf(node).create(parse(body, wished), BY);
}

export function rotateKey(node: AimoNode, body: Uint8Array): Promise<object> {
  const { id: of, grace } = parse(body, toRotate);
  return keysOf(node).rotate(of, grace);
}

export async function revokeKey(node: AimoNode, body: Uint8Array): Promise<object> {
  const { id: of } = parse(body, toRevoke);
  await keysOf(node).revoke(of);
  return { id: of, deleted: true };
}

function keysOf(node: AimoNode): KeyService {
  const keys = node.find("keys");
  if (keys) return keys;
  const message = 'This node has no keys to make: add `apiKeys()` from "aimo/guards" to its plugins.';
  throw new AimoError("INVALID_MESSAGE_FORMAT", message, { status: 404 });
}
