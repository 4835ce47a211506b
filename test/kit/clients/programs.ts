import { spawn } from "node:child_process";
import { once } from "node:events";
import { request } from "undici";
import type { Asked, Got, Plain } from "./plain.ts";

/** As bytes, with the boundary in the content type. */
async function encode({ body, headers }: Asked): Promise<{ body: Buffer; headers: Record<string, string> }> {
  if (body === undefined || typeof body === "string") return { body: Buffer.from(body ?? ""), headers: { ...headers } };
  const form = new Response(body);
  const type = form.headers.get("content-type") ?? "";
  return { body: Buffer.from(await form.arrayBuffer()), headers: { ...headers, "content-type": type } };
}

/** Runs a program that prints the head of the answer as it came, and the body behind it. */
async function run(command: string, args: readonly string[], input: Buffer, { onData, signal }: Asked): Promise<Got> {
  const child = spawn(command, args, { signal, killSignal: "SIGKILL", stdio: ["pipe", "pipe", "inherit"] });
  const pieces: Buffer[] = [];
  child.stdout.on("data", (piece: Buffer) => {
    pieces.push(piece);
    const [, ...body] = Buffer.concat(pieces).toString().split("\r\n\r\n");
    onData(body.join("\r\n\r\n"));
  });
  child.stdin.on("error", () => undefined).end(input);
  const [code] = (await once(child, "close")) as [number | null];
  const all = Buffer.concat(pieces);
  const end = all.indexOf("\r\n\r\n");
  const [first = "", ...lines] = all.toString("latin1", 0, end).split("\r\n");
  const fields = lines.map((line) => [line.split(":")[0]?.toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]);
  return {
    status: Number(first.split(" ")[1]),
    headers: Object.fromEntries(fields) as Record<string, string>,
    body: all.subarray(end + 4),
    failed: code !== 0,
  };
}

export const curl: Plain = async (asked) => {
  const { body, headers, method } = asked;
  const given = Object.entries(headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);
  const args = ["-sSNi", "--fail-with-body", "-X", method, ...given, asked.url];
  if (!(body instanceof FormData)) {
    const sent = body === undefined ? [] : ["--data-binary", "@-"];
    return run("curl", [...args, ...sent], Buffer.from(body ?? ""), asked);
  }
  const fields = [...body].flatMap(([name, value]) =>
    typeof value === "string" ? ["-F", `${name}=${value}`] : ["-F", `${name}=@-;filename=${value.name}`],
  );
  const file = body.get("file") as File;
  return run("curl", [...args, ...fields], Buffer.from(await file.arrayBuffer()), asked);
};

/** What its standard library has: urllib, which throws for a status above 399, on http.client. */
const SCRIPT = `
import http.client, json, sys, urllib.error, urllib.request
asked = json.loads(sys.stdin.buffer.readline())
request = urllib.request.Request(asked["url"], sys.stdin.buffer.read() or None, asked["headers"], method=asked["method"])
code = 0
try:
    answer = urllib.request.urlopen(request)
except urllib.error.HTTPError as error:
    answer, code = error, 1
out = sys.stdout.buffer
lines = [f"HTTP/1.1 {answer.status}"] + [f"{name}: {value}" for name, value in answer.headers.items()]
out.write(("\\r\\n".join(lines) + "\\r\\n\\r\\n").encode("latin-1"))
out.flush()
try:
    while piece := answer.read1(65536):
        out.write(piece)
        out.flush()
except http.client.IncompleteRead:
    code = 1
sys.exit(code)
`;

export const python: Plain = async (asked) => {
  const { body, headers } = await encode(asked);
  const { url, method } = asked;
  const head = Buffer.from(`${JSON.stringify({ url, method, headers })}\n`);
  return run("python3", ["-I", "-c", SCRIPT], Buffer.concat([head, body]), asked);
};

export const undici: Plain = async (asked) => {
  const { url, method, onData, signal } = asked;
  const sent = await encode(asked);
  const { statusCode, headers, body } = await request(url, {
    method,
    headers: sent.headers,
    signal,
    ...(method === "POST" && { body: sent.body }),
  });
  const pieces: Buffer[] = [];
  let failed = statusCode > 399;
  try {
    for await (const piece of body) {
      pieces.push(piece as Buffer);
      onData(Buffer.concat(pieces).toString());
    }
  } catch {
    failed = true;
  }
  return {
    status: statusCode,
    headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)])),
    body: Buffer.concat(pieces),
    failed,
  };
};
