import { request as requestHttp, type ClientRequest, type IncomingMessage } from "node:http";
import { PROMPT } from "./canary.ts";

/** What a client got: `cut` when the connection broke instead of the answer ending. */
export interface Got {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
  readonly cut: boolean;
}

export interface Asked {
  readonly request: ClientRequest;
  readonly response: Promise<IncomingMessage>;
  /** Resolves once `text` has arrived, with all that arrived so far. */
  seen(text: string): Promise<string>;
  /** Reads to the end. */
  got(): Promise<Got>;
  leave(): void;
}

/** A plain client without pooling, retries or opinions. */
export function post(
  api: string,
  body: object | string,
  { path = "/v1/chat/completions", headers = {} }: { path?: string; headers?: Record<string, string> } = {},
): Asked {
  const request = requestHttp(api + path, {
    method: "POST",
    agent: false,
    headers: { "content-type": "application/json", ...headers },
  });
  const pieces: Buffer[] = [];
  let changed = Promise.withResolvers<void>();
  let over: { cut: boolean } | undefined;
  const wake = (): void => {
    changed.resolve();
    changed = Promise.withResolvers();
  };
  const end = (cut: boolean): void => {
    over ??= { cut };
    wake();
  };
  const response = new Promise<IncomingMessage>((resolve, reject) =>
    request.on("response", resolve).on("error", reject),
  );
  response.then(
    (answer) =>
      answer
        .on("data", (piece: Buffer) => (pieces.push(piece), wake()))
        .on("end", () => end(false))
        .on("error", () => end(true))
        .on("close", () => end(!answer.complete)),
    () => end(true),
  );
  request.end(typeof body === "string" ? body : JSON.stringify(body));
  const text = (): string => Buffer.concat(pieces).toString();
  return {
    request,
    response,
    async seen(wanted) {
      for (;;) {
        if (text().includes(wanted)) return text();
        if (over) throw new Error(`The answer ended without ${JSON.stringify(wanted)}: ${text().slice(-500)}`);
        await changed.promise;
      }
    },
    async got() {
      const { statusCode = 0, headers: given } = await response;
      while (over === undefined) await changed.promise;
      return { status: statusCode, headers: given, body: text(), cut: over.cut };
    },
    leave: () => void request.destroy(),
  };
}

/** A chat request that streams. */
export function streaming(model = "test-model", extra: object = {}): object {
  return { model, stream: true, messages: [{ role: "user", content: `${PROMPT} Hello` }], ...extra };
}

/** What an SSE client sees: whole events, then perhaps one error event. */
export function readStream(body: string): {
  content: string;
  errors: { code: string; message: string }[];
  done: boolean;
} {
  const errors: { code: string; message: string }[] = [];
  let content = "";
  let done = false;
  for (const line of body.split("\n")) {
    if (!line.startsWith("data: ")) continue;
    const data = line.slice(6);
    if (data === "[DONE]") {
      done = true;
      continue;
    }
    const value = JSON.parse(data) as {
      error?: { code: string; message: string };
      choices?: { delta?: { content?: string } }[];
    };
    if (value.error) errors.push(value.error);
    else content += value.choices?.[0]?.delta?.content ?? "";
  }
  return { content, errors, done };
}
