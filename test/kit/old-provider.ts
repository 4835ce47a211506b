import { onTestFinished } from "vitest";
import { WebSocket } from "ws";

/** What an old node sends: one text message each. */
export interface OldRequest {
  readonly sender_id: string;
  readonly request_id: string;
  readonly service_id: string;
  readonly endpoint?: string | null;
  readonly request_type: string;
  readonly method: string;
  readonly payload: string;
  readonly headers: Record<string, string>;
  readonly payload_encrypted: boolean;
}

/** All seven are needed. */
export interface OldResponse {
  readonly request_id: string;
  readonly status_code: number;
  readonly content_type: string;
  readonly payload: string;
  readonly headers: Record<string, string>;
  readonly is_stream_chunk: boolean;
  readonly stream_done: boolean;
}

export type Answering = (request: OldRequest, provider: OldProvider) => void | Promise<void>;

export interface OldProvider {
  readonly socket: WebSocket;
  /** All requests so far. */
  readonly requests: readonly OldRequest[];
  request(n: number): Promise<OldRequest>;
  /** Fields of an answer in one piece, unless they say otherwise. */
  send(request: OldRequest, response?: Partial<OldResponse>): void;
  /** Pieces of a stream of events; ended unless `end` is false. */
  stream(request: OldRequest, pieces: readonly string[], end?: boolean): void;
  /** How the connection ended. */
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>;
}

const EVENTS = { "content-type": "text/event-stream" };

/** Connects as the forerunner's providers do. Rejects with the status when it is refused. */
export async function connectOldProvider(
  api: string,
  key: string,
  answer: Answering = () => undefined,
  { query = "", autoPong = true }: { query?: string; autoPong?: boolean } = {},
): Promise<OldProvider> {
  const url = `${api.replace(/^http/, "ws")}/api/v1/providers/subscribe${query}`;
  const socket = new WebSocket(url, { autoPong, headers: { authorization: `Bearer ${key}` } });
  onTestFinished(() => socket.terminate());
  socket.on("error", () => undefined);
  const closed = new Promise<{ code: number; reason: string }>((resolve) =>
    socket.once("close", (code, reason) => resolve({ code, reason: reason.toString() })),
  );
  await new Promise<void>((resolve, reject) => {
    socket.once("open", resolve).once("error", reject);
    socket.once("unexpected-response", (_, response) => {
      response.resume();
      reject(new Error(`refused with ${response.statusCode}`));
    });
  });
  const requests: OldRequest[] = [];
  let wake = Promise.withResolvers<void>();
  const self: OldProvider = {
    socket,
    requests,
    async request(n) {
      while (requests.length <= n) await wake.promise;
      return requests[n] as OldRequest;
    },
    send({ request_id }, response) {
      const whole = { status_code: 200, content_type: "application/json", payload: "{}", headers: {} };
      socket.send(JSON.stringify({ request_id, ...whole, is_stream_chunk: false, stream_done: true, ...response }));
    },
    stream(request, pieces, end = true) {
      const piece = { content_type: "text/event-stream", headers: EVENTS, is_stream_chunk: true };
      for (const payload of pieces) self.send(request, { ...piece, payload, stream_done: false });
      if (end) self.send(request, { ...piece, payload: "", stream_done: true });
    },
    closed,
  };
  socket.on("message", (data, isBinary) => {
    if (isBinary) return;
    const request = JSON.parse((data as Buffer).toString()) as OldRequest;
    for (const name of ["sender_id", "request_id", "service_id", "request_type", "method", "payload"] as const)
      if (typeof request[name] !== "string") throw new Error(`The request has no ${name}.`);
    requests.push(request);
    wake.resolve();
    wake = Promise.withResolvers();
    void answer(request, self);
  });
  return self;
}

/**
 * What `aimo proxy` 0.1.0 did with a request: the endpoint's URL as it is when the request names none, bytes to text per
 * read, and an upstream that breaks off ends the stream like any other.
 */
export function proxyTo(endpoint: string, apiKey?: string): Answering {
  return async (request, provider) => {
    const { endpoint: path, method, payload } = request;
    const url = path ? `${endpoint.replace(/\/$/, "")}/${path.replace(/^\//, "")}` : endpoint;
    const headers = new Headers(request.headers);
    if (apiKey !== undefined) headers.append("authorization", `Bearer ${apiKey}`);
    if (payload !== "") headers.append("content-type", request.headers["content-type"] ?? "application/json");
    let response: Response;
    try {
      response = await fetch(url, { method, headers, ...(payload !== "" && { body: payload }) });
    } catch (error) {
      const text = `HTTP request failed: ${String(error)}`;
      return provider.send(request, { status_code: 500, content_type: "text/plain", payload: text });
    }
    const type = response.headers.get("content-type") ?? "text/plain";
    const head = { status_code: response.status, content_type: type, headers: { "content-type": type } };
    if (!type.includes("text/event-stream")) return provider.send(request, { ...head, payload: await response.text() });
    try {
      for await (const bytes of response.body ?? [])
        provider.send(request, {
          ...head,
          payload: Buffer.from(bytes as Uint8Array).toString(),
          is_stream_chunk: true,
          stream_done: false,
        });
    } catch {
      // ends like any other
    }
    provider.send(request, { ...head, payload: "", is_stream_chunk: true });
  };
}
