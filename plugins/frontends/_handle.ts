import type { IncomingMessage, ServerResponse } from "node:http";
import { AimoError } from "../../core/error.ts";
import type { Origin } from "../../core/call.ts";
import type { AimoNode } from "../../core/node.ts";
import { decoded, parse, readBody, refuse, send, toJSON, type Render, type Room } from "./_exchange.ts";
import type { Mount } from "./_mounts.ts";
import type { Admit } from "./_tries.ts";

/** One request at its mount. Resolves when the handler is done, rejects never. */
export async function handle(
  node: AimoNode,
  res: ServerResponse,
  { scope, handler, about }: Mount,
  {
    origin,
    params,
    uploads,
    admit,
  }: { origin: Origin; params: Record<string, string> | undefined; uploads: Room; admit: Admit },
): Promise<void> {
  const { req } = res;
  const controller = new AbortController();
  res.once("close", () => {
    if (!res.writableFinished) controller.abort(new AimoError("CANCELLED", "The client left."));
  });
  const waits = req.headers.expect !== undefined;
  const body = (): Promise<Uint8Array> =>
    readBody(req, node.config.limits.body, uploads, () => (waits ? res.writeContinue() : undefined));
  try {
    if (scope !== "public") await admit(origin, scope);
    const result = await handler({
      req,
      res,
      params: decoded(params),
      origin,
      signal: controller.signal,
      body,
      json: async (shape) => parse(await body(), shape),
    });
    if (result !== undefined && !res.headersSent) send(res, res.statusCode, result);
  } catch (cause) {
    await fail(node, res, cause, origin.address, about.render);
  }
}

/** Ends a request with an error; one that is not the client's is told to the log. */
export async function fail(
  node: AimoNode,
  res: ServerResponse,
  cause: unknown,
  address: string | undefined,
  render: Render = toJSON,
): Promise<void> {
  const error = AimoError.from(cause);
  const { code, data } = error;
  const path = (res.req.url ?? "").split("?")[0] as string;
  if (code === "INTERNAL") node.log("error", "a route failed", { path, detail: data.detail ?? "" });
  if (code === "UNAUTHORIZED" || code === "FORBIDDEN")
    node.log("warn", "a client was refused", { code, path, address: address ?? "" });
  if (res.headersSent || res.destroyed) return void res.destroy();
  await refuse(node.runtime, res, error, render);
}

export function noRoute(req: IncomingMessage): AimoError {
  const path = (req.url ?? "/").split("?")[0];
  return new AimoError("INVALID_MESSAGE_FORMAT", `There is no route ${req.method} ${path}.`, { status: 404 });
}
