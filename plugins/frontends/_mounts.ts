import type { IncomingMessage, ServerResponse } from "node:http";
import { H3, toNodeHandler, type H3Event } from "h3";
import type { MountedRoute } from "./_about.ts";
import type { ExchangeHandler, HttpService, UpgradeHandler } from "./http.ts";

/** What takes the requests of a path. */
export interface Mount extends MountedRoute {
  readonly handler: ExchangeHandler;
}

export interface Upgrade extends MountedRoute {
  readonly handler: UpgradeHandler;
}

const UPGRADED = { answers: { 101: { description: "The connection is a WebSocket from here on." } } };

/** What frontends have mounted. h3 finds the route; requests and responses are plain Node objects on both sides of it. */
export interface Mounts extends Pick<HttpService, "mount" | "upgrade" | "routes"> {
  /** Ends in one `serve`. */
  route(req: IncomingMessage, res: ServerResponse): void;
  /** What is there to upgrade to. */
  upgradeOf(req: IncomingMessage): Upgrade | undefined;
}

/** `serve` gets what is mounted at the path, if there is anything. It must not throw. */
export function createMounts(
  serve: (res: ServerResponse, mount: Mount | undefined, params: Record<string, string> | undefined) => Promise<void>,
): Mounts {
  const app = new H3();
  const mounts = new Map<string, Mount[]>();
  const upgrades = new Map<string, Upgrade[]>();

  /**
   * Handlers write to the Node response, so h3 has nothing to do with it any more: even with its own mark for that
   * (`h3.handled`) it would end it once more, which makes a cut answer look whole and costs an error object for each call.
   */
  function answer(event: H3Event, list: readonly Mount[] = []): Promise<never> {
    // h3 types the response as a union with HTTP/2, which this server does not speak.
    const { node } = event.runtime as unknown as { node: { res: ServerResponse } };
    void serve(node.res, select(list, node.res.req), event.context.params);
    return new Promise(() => undefined);
  }

  app.all("/**", (event) => answer(event));
  return {
    route: toNodeHandler(app) as Mounts["route"],
    mount(method, path, scope, handler, about = {}) {
      const key = `${method} ${path}`;
      if (!mounts.has(key)) app.on(method === "ALL" ? "" : method, path, (event) => answer(event, mounts.get(key)));
      return stack(mounts, key, { method, path, scope, handler, about });
    },
    upgrade: (path, scope, handler, about = UPGRADED) =>
      stack(upgrades, path, { method: "GET", path, scope, handler, about }),
    get routes() {
      return [...mounts.values(), ...upgrades.values()].flatMap(
        (list) => list.findLast(({ about }) => about.when === undefined) ?? list.at(-1) ?? [],
      );
    },
    upgradeOf: ({ url = "" }) => upgrades.get(url.split("?")[0] as string)?.at(-1),
  };
}

function select(list: readonly Mount[], req: IncomingMessage): Mount | undefined {
  return list.findLast(({ about }) => about.when?.(req)) ?? list.findLast(({ about }) => about.when === undefined);
}

/** On top of what is there. Returns what takes it away. */
function stack<T>(stacks: Map<string, T[]>, key: string, entry: T): () => void {
  stacks.set(key, [...(stacks.get(key) ?? []), entry]);
  return () => {
    const rest = (stacks.get(key) ?? []).filter((other) => other !== entry);
    stacks.set(key, rest);
  };
}
