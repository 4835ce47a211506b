import { once } from "node:events";
import { request as requestHttp } from "node:http";
import { connect, createServer, type AddressInfo } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { z } from "zod";
import { AimoError, createNode, type AimoNode, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { http, type HttpOptions, type HttpService } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { expectClean } from "../../kit/clean.ts";

/** A node whose `routes` mount what a test needs. */
async function start(
  routes: (service: HttpService, node: AimoNode) => void,
  more: Plugin[] = [],
  options: HttpOptions = {},
) {
  const plugin: Plugin = { name: "frontend-test", needs: ["http"], setup: (node) => routes(node.use("http"), node) };
  const node = await createNode({ plugins: [http({ port: 0, ...options }), plugin, ...more], limits: { body: 1_000 } });
  const url = node.use("http").url as string;
  return {
    node,
    url,
    get: (path: string, init?: RequestInit) => fetch(url + path, init),
    [Symbol.asyncDispose]: () => node.close(),
  };
}

describe("a mount", () => {
  it("sends objects as JSON, strings as text, and leaves an answer that is written alone", async () => {
    await using stage = await start(({ mount }) => {
      mount("GET", "/object/:id", "public", ({ params }) => ({ id: params["id"] }));
      mount("GET", "/text", "public", () => "hello");
      mount("GET", "/written", "public", ({ res }) => void res.writeHead(202).end("mine"));
    });
    expect(await (await stage.get("/object/a%20b")).json()).toEqual({ id: "a b" });
    expect((await stage.get("/text")).headers.get("content-type")).toContain("text/plain");
    expect((await stage.get("/written")).status).toBe(202);
  });

  it("of the same path made last wins, until it is taken off", async () => {
    let off = (): void => undefined;
    await using stage = await start(({ mount }) => {
      mount("GET", "/x", "public", () => "first");
      off = mount("GET", "/x", "public", () => "second");
    });
    expect(await (await stage.get("/x")).text()).toBe("second");
    off();
    expect(await (await stage.get("/x")).text()).toBe("first");
  });

  it("for some requests alone comes first for them, and is no route for others, whoever was mounted last", async () => {
    await using stage = await start(({ mount }) => {
      const when = ({ headers }: { headers: object }): boolean => "x-mine" in headers;
      mount("GET", "/x", "public", () => "mine", { when });
      mount("GET", "/x", "public", () => "all");
      mount("GET", "/y", "public", () => "mine", { when });
    });
    const mine = { headers: { "x-mine": "1" } };
    expect(await (await fetch(`${stage.url}/x`, mine)).text()).toBe("mine");
    expect(await (await fetch(`${stage.url}/x`)).text()).toBe("all");
    expect([(await fetch(`${stage.url}/y`, mine)).status, (await fetch(`${stage.url}/y`)).status]).toEqual([200, 404]);
  });

  it("is asked for admission before a body is read, unless it is public", async () => {
    const guard: Plugin = {
      name: "guard-test",
      hooks: {
        "client:admit": (origin, scope) => {
          if (origin.headers["x-pass"] !== scope) throw new AimoError("FORBIDDEN", "Not for you.");
        },
      },
    };
    await using stage = await start(
      ({ mount }) => {
        mount("POST", "/admin", "admin", async ({ body }) => ({ size: (await body()).length }));
        mount("GET", "/open", "public", () => "open");
      },
      [guard],
    );
    // The body never comes: only an admission that does not wait for it can answer.
    const request = requestHttp(`${stage.url}/admin`, { method: "POST", headers: { "content-length": 100 } });
    request.flushHeaders();
    const [response] = (await once(request, "response")) as [{ statusCode: number; resume(): void }];
    expect(response.statusCode).toBe(403);
    request.destroy();
    expect((await stage.get("/open")).status).toBe(200);
    expect((await stage.get("/admin", { method: "POST", body: "abc", headers: { "x-pass": "admin" } })).status).toBe(
      200,
    );
  });

  it("checks JSON by a schema, and names the field that is wrong", async () => {
    await using stage = await start(
      ({ mount }) =>
        void mount("POST", "/j", "public", ({ json }) => json(z.object({ n: z.number("must be a number") }))),
    );
    const ask = async (body: string) => (await stage.get("/j", { method: "POST", body })).json();
    expect(await ask('{"n":1}')).toEqual({ n: 1 });
    expect(await ask('{"n":"1"}')).toMatchObject({ error: { param: "n", message: "n: must be a number." } });
    expect(await ask("{")).toMatchObject({ error: { code: "invalid_message_format" } });
  });

  it("that throws something unexpected is a 500 without the reason, and the node lives", async () => {
    await using stage = await start(
      ({ mount }) => {
        mount("GET", "/broken", "public", () => {
          throw new Error("password=hunter2");
        });
      },
      [{ name: "observer-quiet", provides: ["log"], setup: (node) => node.provide("log", () => undefined) }],
    );
    const response = await stage.get("/broken");
    expect(response.status).toBe(500);
    expect(await response.text()).not.toContain("hunter2");
    expect((await stage.get("/nothing")).status).toBe(404);
  });

  it("renders errors as its frontend wants them", async () => {
    await using stage = await start(({ mount }) => {
      mount(
        "GET",
        "/x",
        "public",
        () => {
          throw new AimoError("RATE_LIMIT_EXCEEDED", "Too fast.", { retryAfter: 1_500 });
        },
        { render: ({ message }) => ({ type: "error", message }) },
      );
    });
    const response = await stage.get("/x");
    expect([response.status, response.headers.get("retry-after")]).toEqual([429, "2"]);
    expect(await response.json()).toEqual({ type: "error", message: "Too fast." });
  });

  it("lists the routes that are mounted now, with what is told of them", async () => {
    let off = (): void => undefined;
    const about = { summary: "The second." };
    await using stage = await start(({ mount, upgrade }) => {
      mount("GET", "/x", "public", () => "first");
      off = mount("GET", "/x", "read", () => "second", about);
      upgrade("/ws", "call", (_request, socket) => void socket.destroy());
    });
    const { routes } = stage.node.use("http");
    expect(routes).toEqual([
      expect.objectContaining({ method: "GET", path: "/x", scope: "read", about }),
      expect.objectContaining({ method: "GET", path: "/ws", scope: "call" }),
    ]);
    off();
    expect(stage.node.use("http").routes[0]).toMatchObject({ path: "/x", scope: "public" });
  });

  it("tells a handler when its client leaves", async () => {
    const left = Promise.withResolvers<void>();
    const entered = Promise.withResolvers<void>();
    await using stage = await start(({ mount }) => {
      mount("GET", "/wait", "public", ({ signal }) => {
        signal.addEventListener("abort", () => left.resolve());
        entered.resolve();
        return left.promise;
      });
    });
    const request = requestHttp(`${stage.url}/wait`);
    request.on("error", () => undefined).end();
    await entered.promise;
    request.destroy();
    await left.promise;
  });
});

describe("an upgrade", () => {
  it("reaches its handler after admission; others are refused with an error object", async () => {
    await using stage = await start(
      ({ upgrade }) =>
        void upgrade("/ws", "call", (_, socket) =>
          socket.end("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: test\r\n\r\nhello"),
        ),
      [apiKeys({ keys: ["a-long-key"] })],
    );
    const ask = async (path: string, key: string): Promise<string> => {
      const socket = connect(Number(new URL(stage.url).port), "127.0.0.1");
      socket.end(
        `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: test\r\nauthorization: Bearer ${key}\r\n\r\n`,
      );
      let text = "";
      for await (const piece of socket) text += String(piece);
      return text;
    };
    expect(await ask("/ws", "a-long-key")).toContain("hello");
    expect(await ask("/ws", "wrong-key")).toContain("HTTP/1.1 401");
    expect(await ask("/nothing", "a-long-key")).toContain("HTTP/1.1 404");
    for (const path of ["//", "http://", "*"]) expect(await ask(path, "a-long-key")).toContain("HTTP/1.1 400");
  });
});

it("an upgraded connection that nobody closes does not keep the node from closing", async () => {
  expectClean();
  const stage = await start(({ upgrade }) => void upgrade("/ws", "public", (_, socket) => void socket.write("hello")));
  const socket = connect(Number(new URL(stage.url).port), "127.0.0.1");
  socket.write("GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n");
  expect(String((await once(socket, "data"))[0])).toBe("hello");
  const [, closed] = await Promise.all([stage.node.close(), once(socket, "close")]);
  expect(closed).toBeDefined();
});

describe("the door", () => {
  it("beyond loopback needs a plugin that tells clients apart, or `insecure`", async () => {
    await expect(createNode({ plugins: [http({ port: 0, host: "0.0.0.0" })] })).rejects.toThrow(/apiKeys.*insecure/s);
    const guarded = await createNode({
      plugins: [http({ port: 0, host: "0.0.0.0" }), apiKeys({ keys: ["a-long-key"] })],
    });
    await guarded.close();
    const open = await createNode({ plugins: [http({ port: 0, host: "0.0.0.0" })], insecure: true });
    await open.close();
  });

  it("that is taken is said in one sentence, and nothing is left running", async () => {
    await using stage = await start(() => undefined);
    const port = Number(new URL(stage.url).port);
    await expect(createNode({ plugins: [http({ port })] })).rejects.toThrow(`the port ${port} is taken`);
  });

  it("closes for new clients at once, and lets a running answer end", async () => {
    const go = Promise.withResolvers<void>();
    const entered = Promise.withResolvers<void>();
    const stage = await start(
      ({ mount }, node) => {
        mount("POST", "/slow", "public", async ({ res, origin, signal }) => {
          res.writeHead(200);
          const sink = {
            write: (frame: { messageType: string; body?: Uint8Array }) =>
              void (frame.messageType === "Response" && res.end(frame.body)),
          };
          await node.open({ type: "test", model: "m", contentType: "", body: new Uint8Array(0) }, sink, {
            origin,
            signal,
          });
        });
      },
      [
        {
          name: "provider-slow",
          provider: {
            name: "slow",
            models: [{ id: "m", types: ["test"] }],
            handle: async (_, reply) => (entered.resolve(), await go.promise, void reply.send("whole")),
          },
        },
      ],
    );
    const answer = stage.get("/slow", { method: "POST" });
    await entered.promise;
    const closing = stage.node.close();
    await expect(stage.get("/slow")).rejects.toThrow();
    go.resolve();
    expect(await (await answer).text()).toBe("whole");
    await closing;
  });
});

describe("a reload", () => {
  /** A port that nobody listens on. */
  async function freePort(): Promise<number> {
    const place = createServer().listen(0, "127.0.0.1");
    await once(place, "listening");
    const { port } = place.address() as AddressInfo;
    place.close();
    await once(place, "close");
    return port;
  }

  interface Slow {
    readonly routes: Plugin;
    readonly entered: Promise<void>;
    go(): void;
  }

  /** Mounts an answer that comes in two parts. */
  function slow(): Slow {
    const entered = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const routes: Plugin = {
      name: "frontend-slow",
      options: {},
      needs: ["http"],
      setup(node) {
        node.use("http").mount("GET", "/slow", "public", async ({ res }) => {
          res.writeHead(200).write("first,");
          entered.resolve();
          await go.promise;
          res.end("last");
        });
        node.use("http").mount("GET", "/quick", "public", () => "quick");
      },
    };
    return { routes, entered: entered.promise, go: go.resolve };
  }

  async function start(plugins: Plugin[], config: Partial<NodeConfig> = {}): Promise<AimoNode> {
    const node = await createNode({ drain: 0, ...config, plugins });
    onTestFinished(() => node.close());
    return node;
  }

  const text = async (url: string): Promise<string> => (await fetch(url)).text();

  it("to another port opens that first: answers that run end, what is mounted stays, the old port is free", async () => {
    expectClean();
    const { routes, entered, go } = slow();
    const node = await start([http({ port: 0 }), routes]);
    const before = node.use("http").url as string;
    const running = text(`${before}/slow`);
    await entered;
    const port = await freePort();
    expect(await node.reload({ plugins: [http({ port }), routes], drain: 0 })).toEqual(["frontend-http: port"]);
    const after = node.use("http").url as string;
    expect(after).toBe(`http://127.0.0.1:${port}`);
    expect(await text(`${after}/quick`)).toBe("quick");
    await expect(text(`${before}/quick`)).rejects.toThrow("fetch failed");
    go();
    expect(await running).toBe("first,last");
  });

  it("to a port that is taken leaves the node on the old one", async () => {
    const { routes } = slow();
    const node = await start([http({ port: 0 }), routes]);
    const other = await start([http({ port: 0 })]);
    const port = Number(new URL(other.use("http").url as string).port);
    const url = node.use("http").url as string;
    await expect(node.reload({ plugins: [http({ port }), routes], drain: 0 })).rejects.toThrow(
      `the port ${port} is taken`,
    );
    expect(node.use("http").url).toBe(url);
    expect(await text(`${url}/quick`)).toBe("quick");
  });

  it("to another address of the same port makes room for it, and goes back when it cannot have it", async () => {
    const { routes, entered, go } = slow();
    const port = await freePort();
    const node = await start([http({ port }), routes]);
    const running = text(`http://127.0.0.1:${port}/slow`);
    await entered;
    // An address for documentation, which no machine has.
    const nowhere = { plugins: [http({ port, host: "192.0.2.1" }), routes], insecure: true, drain: 0 };
    await expect(node.reload(nowhere)).rejects.toThrow(/cannot listen on 192\.0\.2\.1/);
    expect(await text(`http://127.0.0.1:${port}/quick`)).toBe("quick");
    await node.reload({ plugins: [http({ port, host: "0.0.0.0" }), routes], insecure: true, drain: 0 });
    expect(node.use("http").url).toBe(`http://0.0.0.0:${port}`);
    expect(await text(`http://127.0.0.1:${port}/quick`)).toBe("quick");
    go();
    expect(await running).toBe("first,last");
  });

  it("takes the routes of a plugin with it, and lets its answers end", async () => {
    const { routes, entered, go } = slow();
    const door = http({ port: 0 });
    const node = await start([door, routes], { drain: 60_000 });
    const url = node.use("http").url as string;
    const running = text(`${url}/slow`);
    await entered;
    await node.reload({ plugins: [door], drain: 60_000 });
    expect((await fetch(`${url}/quick`)).status).toBe(404);
    await node.reload({ plugins: [door, routes], drain: 60_000 });
    expect(await text(`${url}/quick`)).toBe("quick");
    go();
    expect(await running).toBe("first,last");
  });

  it("of the server itself closes its door at once, and opens another one with the routes of all who need it", async () => {
    const { routes, entered, go } = slow();
    const node = await start([http({ port: 0 }), routes]);
    const before = node.use("http").url as string;
    const running = text(`${before}/slow`);
    await entered;
    await node.reload({ plugins: [], drain: 0 });
    await expect(text(`${before}/quick`)).rejects.toThrow("fetch failed");
    go();
    expect(await running).toBe("first,last");
    await node.reload({ plugins: [http({ port: 0 }), routes], drain: 0 });
    expect(await text(`${node.use("http").url}/quick`)).toBe("quick");
  });
});
