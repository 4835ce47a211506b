import { AimoError } from "../error.ts";
import { checkKnown, getApi, reach, read, toError } from "./ask.ts";
import { eventsIn, type ChatChunk } from "./sse.ts";

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** How an answer came. Times are ms. */
export interface Told {
  readonly content: string;
  readonly model: string;
  /** Where the node says it. */
  readonly provider?: string;
  readonly firstToken?: number;
  readonly total: number;
  readonly chunks: number;
  /** Where the upstream counts them. */
  readonly tokens?: number;
}

/** A chat completion, piece by piece. Throws what the node answers; a `signal` that aborts ends it early without a throw. */
export async function askChat(
  api: string,
  question: { readonly model: string; readonly messages: readonly Message[]; readonly maxTokens?: number },
  signal: AbortSignal,
  write: (text: string, kind: "content" | "reasoning") => void = () => undefined,
): Promise<Told> {
  const { model, messages, maxTokens } = question;
  const start = performance.now();
  const answer = await reach(api, "/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      ...(maxTokens !== undefined && { max_tokens: maxTokens }),
    }),
  });
  if (answer.status === 404) await checkModel(api, model);
  if (!answer.ok || answer.body === null) read(answer.status, await answer.text(), api);
  const provider = answer.headers.get("x-aimo-provider");
  let content = "";
  let [chunks, tokens, firstToken, done]: [number, number | undefined, number | undefined, boolean] = [
    0,
    undefined,
    undefined,
    false,
  ];
  try {
    for await (const data of eventsIn(answer.body as unknown as AsyncIterable<Uint8Array>)) {
      if (data === "[DONE]") done = true;
      if (!data.startsWith("{")) continue;
      const { error, usage, choices } = JSON.parse(data) as ChatChunk;
      if (error) throw toError(502, { error }, api);
      tokens = usage?.completion_tokens ?? tokens;
      const { content: text, reasoning_content: thought, reasoning = thought } = choices?.[0]?.delta ?? {};
      if (!text && !reasoning) continue;
      firstToken ??= performance.now() - start;
      chunks++;
      if (reasoning) write(reasoning, "reasoning");
      if (text) write(text, "content");
      content += text ?? "";
    }
  } catch (cause) {
    if (AimoError.is(cause)) throw cause;
    done = signal.aborted;
  }
  if (!done && !signal.aborted) throw new AimoError("STREAM_INTERRUPTED", `${api}: the answer was cut before its end.`);
  return {
    content,
    model,
    ...(provider !== null && { provider }),
    ...(firstToken !== undefined && { firstToken }),
    total: performance.now() - start,
    chunks,
    ...(tokens !== undefined && { tokens }),
  };
}

/** Names of the models that a node lists. */
export async function listModels(api: string): Promise<string[]> {
  const { data } = await getApi<{ data: { id: string }[] }>(api, "/v1/models");
  return data.map(({ id }) => id);
}

/** The named one, or the only one. Throws MODEL_NOT_FOUND. */
export async function chooseModel(api: string, named: string | undefined): Promise<string> {
  if (named !== undefined) return named;
  const all = await listModels(api);
  if (all.length === 1) return all[0] as string;
  const why =
    all.length === 0
      ? "no provider is connected"
      : `there are ${all.length}: name one with --model, ${all.slice(0, 10).join(", ")}`;
  throw new AimoError("MODEL_NOT_FOUND", `${api} has no single model to ask: ${why}.`);
}

/** Throws with the name that was perhaps meant, if the model is unknown. */
export async function checkModel(api: string, model: string): Promise<void> {
  if (!/^12D3KooW\w+:/.test(model)) checkKnown("model", model, await listModels(api));
}
