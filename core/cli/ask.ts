import { readdirSync, realpathSync, rmSync, statSync } from "node:fs";
import { request, type IncomingMessage } from "node:http";
import { join, sep } from "node:path";
import { text } from "node:stream/consumers";
import { isAlive, runFolder, socketIn } from "../../plugins/frontends/_admin-socket.ts";
import { AimoError } from "../error.ts";
import { suggest } from "../suggest.ts";

/** Which node a command asks. */
export interface Asked {
  /** Data dir, socket or the end of the peer id of a node on this machine. Default: the one that runs. */
  readonly node?: string;
  /** HTTP API of a node anywhere. */
  readonly url?: string;
  readonly json?: boolean;
}

/** The admin socket of a running node. */
export interface Running {
  /** Throws what the node answers, as an AimoError. */
  ask<T>(path: string, body?: object): Promise<T>;
}

/** For commands that can ask over HTTP. */
export const OR_URL = ", or name one with --url";
/** A node that hangs is told so. ms */
const ANSWER_WITHIN = 10_000;

/** Throws NETWORK_ERROR in one sentence when there is none, or several. `elsewhere`: another way that the command has. */
export async function findNode(node?: string, elsewhere = ""): Promise<Running> {
  const socket = await findSocket(node);
  if (socket !== undefined) return running(socket);
  throw new AimoError("NETWORK_ERROR", `No node is running here: start one with \`aimo start\`${elsewhere}.`);
}

/** Undefined when nothing was named and no node runs. */
export async function findSocket(node?: string): Promise<string | undefined> {
  const alive = await livingSockets();
  if (node !== undefined) {
    const named =
      [node, socketIn(node)].find(isSocket) ??
      alive.find(({ entry }) => entry.endsWith(`${node.slice(-12)}.sock`))?.entry;
    if (named !== undefined && (await isAlive(named))) return named;
    throw new AimoError("NETWORK_ERROR", `No node runs with the data dir, socket or peer id ${node}.${hintOf(alive)}`);
  }
  if (alive.length <= 1) return alive[0]?.entry;
  const near = alive.filter(({ socket }) => socket.startsWith(realpathSync(".") + sep));
  if (near.length === 1) return near[0]?.entry;
  throw new AimoError("NETWORK_ERROR", `${alive.length} nodes run here.${hintOf(alive)}`);
}

interface Living {
  readonly entry: string;
  /** What the entry leads to. */
  readonly socket: string;
}

/** Of all nodes of this user, and of one in this folder; what dead ones have left is cleared away. */
async function livingSockets(): Promise<Living[]> {
  const folder = runFolder();
  const found = new Map<string, Living>();
  for (const entry of [...list(folder).map((name) => join(folder, name)), socketIn(".aimo")]) {
    if (await isAlive(entry)) {
      const socket = realpathSync(entry);
      found.set(socket, found.get(socket) ?? { entry, socket });
    } else if (entry.startsWith(folder)) rmSync(entry, { force: true });
  }
  return [...found.values()];
}

function hintOf(alive: readonly Living[]): string {
  if (alive.length === 0) return " No node runs here at all.";
  const names = alive.map(({ socket }) => socket.replace(/\/admin\.sock$/, ""));
  return ` Name one with --node: ${names.join(", ")}.`;
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.endsWith(".sock"));
  } catch {
    return [];
  }
}

function isSocket(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isSocket() === true;
}

export function running(socketPath: string): Running {
  return {
    async ask<T>(path: string, body?: object): Promise<T> {
      const answer = await new Promise<IncomingMessage>((resolve, reject) => {
        const asked = request({ socketPath, path, method: body ? "POST" : "GET", agent: false });
        asked.setTimeout(ANSWER_WITHIN, () => asked.destroy(new Error(`it said nothing for ${ANSWER_WITHIN} ms`)));
        asked
          .once("response", resolve)
          .once("error", (cause) =>
            reject(
              new AimoError("NETWORK_ERROR", `The node does not answer at ${socketPath}: ${cause.message}.`, { cause }),
            ),
          );
        asked.end(body && JSON.stringify(body));
      });
      return read<T>(answer.statusCode ?? 0, await text(answer), socketPath);
    },
  };
}

/** Where the API's routes begin, without `/v1`. Throws CONFIG_INVALID. */
export function toApi(url: string): string {
  const full = /^https?:\/\//.test(url) ? url : `http://${url}`;
  if (!URL.canParse(full)) throw new AimoError("CONFIG_INVALID", `${url} is no URL such as http://127.0.0.1:8000.`);
  return full.replace(/\/+$/, "").replace(/(\/api)?\/v1$/, "");
}

/** The named one, else that of the node that runs here, else the default. */
export async function findApi({ node, url }: Asked): Promise<string> {
  if (url !== undefined) return toApi(url);
  const socket = await findSocket(node);
  if (socket === undefined) return "http://127.0.0.1:8000";
  const { api } = await running(socket).ask<{ api: string | null }>("/node");
  if (api !== null) return api;
  throw new AimoError("NETWORK_ERROR", "The node that runs here has no HTTP API: name one with --url.");
}

/** What every request over HTTP brings along. */
export function keyHeaders(): Record<string, string> {
  const key = process.env["AIMO_API_KEY"];
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** GET on a node's HTTP API. */
export async function getApi<T>(api: string, path: string): Promise<T> {
  const answer = await reach(api, path, { signal: AbortSignal.timeout(ANSWER_WITHIN) });
  return read<T>(answer.status, await answer.text(), api);
}

/** `fetch` with the key, and with one sentence when nobody answers. */
export async function reach(api: string, path: string, init: RequestInit = {}): Promise<Response> {
  try {
    return await fetch(api + path, { ...init, headers: { ...keyHeaders(), ...(init.headers as object) } });
  } catch (cause) {
    if (init.signal?.aborted && (init.signal.reason as Error)?.name !== "TimeoutError")
      throw new AimoError("CANCELLED", "The answer was stopped.");
    throw new AimoError(
      "NETWORK_ERROR",
      `No node answers at ${api} (${whyOf(cause)}): start one with \`aimo start\`, or name one with --url.`,
      { cause },
    );
  }
}

/** What `fetch` hides in causes. */
export function whyOf(error: unknown): string {
  const { cause = error } = error as { cause?: { code?: string; message?: string } };
  const { code, message } = cause as { code?: string; message?: string };
  return code ?? message ?? String(error);
}

/** JSON, or the error in it. */
export function read<T>(status: number, body: string, where: string): T {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch (cause) {
    throw new AimoError(
      "NETWORK_ERROR",
      `What answers at ${where} is no aimo node: it sent no JSON (status ${status}).`,
      { cause },
    );
  }
  if (status < 400) return value as T;
  throw toError(status, value, where);
}

export function toError(status: number, value: unknown, where: string): AimoError {
  const { message = `it answered ${status}` } = (value as { error?: { message?: string } } | null)?.error ?? {};
  const advice = status === 401 ? " Put the key into AIMO_API_KEY." : "";
  return new AimoError("NETWORK_ERROR", `${where}: ${message}${advice}`, { status });
}

/** Throws MODEL_NOT_FOUND, with the one that was perhaps meant. */
export function checkKnown(kind: "model" | "provider", name: string, known: readonly string[]): void {
  if (known.includes(name)) return;
  const all = known.length === 0 ? ` No ${kind} is there now.` : suggest(name, known) || " `aimo models` lists them.";
  throw new AimoError("MODEL_NOT_FOUND", `There is no ${kind} ${JSON.stringify(name)} here.${all}`);
}
