import type { Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { RequestFrame } from "../../core/frame.ts";
import type { Target } from "../../core/parts.ts";
import { matchesAny } from "../routers/_glob.ts";
import { namesModel } from "./_named-model.ts";

/** Below a provider's URL, what frontends ask for by themselves; any other path may name a model of its own. */
const FILES = /^files(\/[^/?]+(\/content)?)?(\?|$)/;
const MESSAGES = /^messages(\/count_tokens)?(\?|$)/;

/** May the client call this model, as far as its allowance says? */
export function mayCall({ allowance }: Origin, model: string): boolean {
  return allowance?.models === undefined || matchesAny(allowance.models, model);
}

/**
 * For `call:start` of each guard that sets `origin.allowance`: throws FORBIDDEN when a client that is bound to models asks
 * for another one, or in a form in which the provider could read another one than this node has.
 */
export function checkModels(origin: Origin, request: Readonly<RequestFrame>): void {
  if (origin.allowance?.models === undefined) return;
  const { model, fallbacks = [] } = request;
  for (const name of model === undefined ? fallbacks : [model, ...fallbacks])
    if (!mayCall(origin, name)) throw forbidden(`may not call the model ${JSON.stringify(name.slice(0, 200))}`);
  if (!isOfFiles(request) && !isWritten(request))
    throw forbidden("is for some models alone, so that the JSON or form of each request must name its model");
}

/** For `call:attempt` of the same guards: hooks may have changed the model, or the request named none. */
export function checkTarget(origin: Origin, { model }: Target): void {
  if (!mayCall(origin, model.id)) throw forbidden(`may not call the model ${JSON.stringify(model.id)}`);
}

/** Files are of no model. */
function isOfFiles({ type, model, endpoint = "" }: Readonly<RequestFrame>): boolean {
  return type === "openai.files" && model === undefined && FILES.test(endpoint);
}

/** In a body that names it, and under no path of its own. */
function isWritten(request: Readonly<RequestFrame>): boolean {
  const { model, endpoint } = request;
  return model !== undefined && (endpoint === undefined || MESSAGES.test(endpoint)) && namesModel(request);
}

function forbidden(why: string): AimoError {
  return new AimoError("FORBIDDEN", `This client's key ${why}; GET /v1/models lists what it may call.`, {
    param: "model",
  });
}
