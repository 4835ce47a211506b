import type { ReplyFrame } from "../../frame.ts";
import type { AimoNode } from "../../node.ts";
import type { Target } from "../../parts.ts";
import type { Checkup } from "./checkup.ts";

/** A model that has to be loaded first takes its time. ms */
export const TOKEN_WITHIN = 60_000;
/** Models that are asked when none are named. */
const ASKED = 3;

export interface TokenOptions {
  /** False: no model is asked. */
  readonly tokens: boolean;
  /** Only these. */
  readonly models?: readonly string[] | undefined;
}

/** The ones that were named, else the first three. */
export function chosen<T>(
  list: readonly T[],
  nameOf: (each: T) => string,
  { tokens, models }: TokenOptions,
): readonly T[] {
  if (!tokens) return [];
  return models === undefined ? list.slice(0, ASKED) : list.filter((each) => models.includes(nameOf(each)));
}

/** Their requests for one token are the same. */
const CHATS = ["openai.chat", "anthropic.messages"];

function chatOf({ model }: Target): string | undefined {
  return CHATS.find((type) => model.types.includes(type));
}

/** Asks each model for one token, through the node. */
export async function checkTokens(
  { check }: Checkup,
  node: AimoNode,
  targets: readonly Target[],
  options: TokenOptions,
): Promise<void> {
  const chats = targets.filter((target) => chatOf(target) !== undefined);
  for (const target of chosen(chats, ({ model }) => model.id, options))
    await check("token", target.model.id, () => firstToken(node, target));
}

async function firstToken(node: AimoNode, target: Target): Promise<void> {
  const model = target.model.id;
  const body = { model, stream: true, max_tokens: 1, messages: [{ role: "user", content: "Hi" }] };
  const enough = new AbortController();
  let got = false;
  let failed: string | undefined;
  const write = (frame: ReplyFrame): undefined => {
    if (frame.messageType === "Response" && frame.statusCode >= 400)
      failed = `its upstream answered ${frame.statusCode}${saidIn(frame.body)}`;
    else if (frame.messageType === "Response") got ||= frame.body.length > 0;
    else if (frame.messageType === "StreamChunk" && frame.body.length > 0 && !frame.preamble) {
      got = true;
      enough.abort();
    }
  };
  const { error } = await node.open(
    {
      type: chatOf(target) as string,
      contentType: "application/json",
      body: Buffer.from(JSON.stringify(body)),
      stream: true,
      model,
      providerId: target.id,
    },
    { write },
    { origin: { kind: "local", via: "doctor", headers: {} }, signal: enough.signal },
  );
  if (got && failed === undefined) return;
  failed ??= error ? `${error.message.replace(/\.$/, "")} (${error.code})` : undefined;
  throw new Error(
    `The provider ${target.provider} gives no token: ${failed ?? "its answer is empty"}. Look at its log, and at its upstream.`,
  );
}

/** The message of an error object. */
function saidIn(body: Uint8Array): string {
  try {
    const { error } = JSON.parse(Buffer.from(body).toString()) as { error?: { message?: unknown } };
    return typeof error?.message === "string" ? `: ${error.message.slice(0, 200)}` : "";
  } catch {
    return "";
  }
}
