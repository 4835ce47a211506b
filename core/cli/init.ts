import { relative, resolve } from "node:path";
import { isCancel, select, text } from "@clack/prompts";
import { AimoError } from "../error.ts";
import { suggest } from "../suggest.ts";
import { orLeft } from "./left.ts";
import { inTheWay, render, writeAll } from "./scaffold.ts";

export interface InitOptions {
  template?: string;
  yes?: boolean;
  json?: boolean;
}

const TEMPLATES = {
  gateway: "an OpenAI-compatible API in front, providers over libp2p behind",
  provider: "serves Ollama, vLLM, … to gateways, also from behind NAT",
  single: "both in one process, without a network",
  "plugin-router": "a routing plugin and its test",
  "plugin-transport": "a transport plugin and its test",
};
type Template = keyof typeof TEMPLATES;

interface Answers {
  readonly folder: string;
  readonly template: Template;
  /** For `.env`. */
  readonly env: Readonly<Record<string, string>>;
}

const DEFAULT_FOLDER = "aimo-node";

/** Makes a project from a template of this package. Asks on a terminal for what is not given. Throws CONFIG_INVALID. */
export async function init(folder: string | undefined, { template, yes = false, json = false }: InitOptions) {
  if (template !== undefined) checkTemplate(template);
  if (folder !== undefined) checkFolder(folder);
  const asks = !yes && !json && process.stdin.isTTY && process.stdout.isTTY;
  const answers = asks
    ? await orLeft(ask(folder, template))
    : { folder: folder ?? DEFAULT_FOLDER, template: template ?? "gateway", env: {} };
  if (answers === undefined) {
    process.exitCode = 1;
    return;
  }
  checkFolder(answers.folder);
  const root = resolve(answers.folder);
  const files = render(root, answers.template, answers.env);
  writeAll(root, files);
  const { template: made } = answers;
  process.stdout.write(
    json
      ? `${JSON.stringify({ event: "created", template: made, folder: root, files: [...files.keys()] })}\n`
      : `${asks ? "\n" : ""}${nextSteps(root, made)}`,
  );
}

/** Undefined when the person left. */
async function ask(folder: string | undefined, template: Template | undefined): Promise<Answers | undefined> {
  const where =
    folder ??
    (await text({
      message: "Where should it be?",
      placeholder: DEFAULT_FOLDER,
      defaultValue: DEFAULT_FOLDER,
      validate: (value) => inTheWay(value || DEFAULT_FOLDER),
    }));
  if (isCancel(where)) return undefined;
  const options = Object.entries(TEMPLATES).map(([value, hint]) => ({ value: value as Template, hint }));
  const which = template ?? (await select({ message: "What should it be?", options }));
  if (isCancel(which)) return undefined;
  const env = which === "provider" ? await askProvider() : {};
  return env && { folder: where, template: which, env };
}

async function askProvider(): Promise<Answers["env"] | undefined> {
  const upstream = await text({
    message: "What should it serve? An OpenAI-compatible URL; nothing for a demo that is no model.",
    placeholder: "http://127.0.0.1:11434/v1",
    validate: (value = "") =>
      value === "" || /^https?:\/\/[^\s#]+$/.test(value)
        ? undefined
        : "It must be a URL such as http://127.0.0.1:11434/v1",
  });
  if (isCancel(upstream)) return undefined;
  const gateway = await text({
    message: "Which gateway should it join? The address that the gateway prints; it can be set later, in .env.",
    placeholder: "/ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…",
    validate: (value = "") =>
      value === "" || /^\/[^\s#]+\/p2p\/\w+$/.test(value)
        ? undefined
        : "It must look like /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…",
  });
  if (isCancel(gateway)) return undefined;
  return { AIMO_UPSTREAM: upstream ?? "", AIMO_JOIN: gateway ?? "" };
}

function checkTemplate(name: string): asserts name is Template {
  const names = Object.keys(TEMPLATES);
  if (names.includes(name)) return;
  const hint = suggest(name, names) || ` There are ${names.join(", ")}.`;
  throw new AimoError("CONFIG_INVALID", `There is no template "${name}".${hint}`);
}

function checkFolder(folder: string): void {
  const why = inTheWay(folder);
  if (why !== undefined) throw new AimoError("CONFIG_INVALID", why);
}

function nextSteps(root: string, template: Template): string {
  const to = relative("", root);
  const lines = ["npm install", template.startsWith("plugin-") ? "npm test" : "npm start"];
  if (to !== "") lines.unshift(`cd ${/^[\w./-]+$/.test(to) ? to : `'${to.replaceAll("'", "'\\''")}'`}`);
  return lines.map((line) => `  ${line}\n`).join("");
}
