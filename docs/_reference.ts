import type { Command } from "commander";
import ts from "typescript";
import { build } from "../core/cli/main.ts";
import { resolveConfig } from "../core/config.ts";
import { AimoError, type ErrorCode } from "../core/error.ts";
import { BUILT_IN } from "../core/plugin.ts";
import { code, lines, page, table } from "./_markdown.ts";
import { defaultsOf, docOf, fieldsOf, kinds, nodesOf, type Field, type Source } from "./_source.ts";

/** Path in the repository and text of each page that says what the code says. */
export function reference(source: Source): Record<string, string> {
  return {
    "docs/reference/plugins.md": plugins(source),
    "docs/reference/hooks.md": hooks(source),
    "docs/reference/errors.md": errors(source),
    "docs/reference/cli.md": cli(),
    "docs/reference/config.md": config(source),
  };
}

function plugins(source: Source): string {
  const Plugin = source.checker.getDeclaredTypeOfSymbol(source.declared("core/plugin.ts", "Plugin"));
  const sections = kinds().map((kind) => {
    const factories = [...source.exports(`plugins/${kind}/index.ts`).values()].flatMap((symbol) => {
      const declaration = symbol.valueDeclaration;
      if (!declaration || !ts.isFunctionDeclaration(declaration)) return [];
      const made = source.checker.getSignatureFromDeclaration(declaration)?.getReturnType();
      const isPlugin = made !== undefined && source.checker.isTypeAssignableTo(made, Plugin);
      return isPlugin || kind === "presets" ? [factory(declaration, symbol, kind, source)] : [];
    });
    return lines(`## ${kind[0]?.toUpperCase()}${kind.slice(1)}`, ...factories);
  });
  const services = fieldsOf(
    source.checker.getDeclaredTypeOfSymbol(source.declared("core/plugin.ts", "NodeServices")),
    source,
  );
  return page(
    "Plugins and their options",
    "Every plugin of the package, with its options. Which ones there are at a glance: [plugins/README.md](../../plugins/README.md).",
    "An option without a default may be left out unless it is *required*. Times are ms and sizes bytes where nothing else is said. Names such as `router-first` are what `disable` takes.",
    ...sections,
    "## Services",
    "What plugins offer each other, by `needs` and `provides`.",
    table(
      ["service", "type", "meaning"],
      services.map(({ path, type, text }) => [code(path), code(type), text]),
    ),
  );
}

function factory(declaration: ts.FunctionDeclaration, symbol: ts.Symbol, kind: string, source: Source): string {
  const call = `${symbol.name}()`;
  const said = literals(declaration, "name").find((name) => BUILT_IN.includes(name));
  const facts = (["needs", "provides"] as const).flatMap((field) => {
    const services = literals(declaration, field);
    return services.length > 0 ? [`${field} ${services.map(code).join(", ")}`] : [];
  });
  return lines(
    `### ${said ? `${said}: ` : ""}\`${call}\``,
    [`From \`aimo/${kind}\`${facts.length > 0 ? `; ${facts.join("; ")}` : ""}.`, docOf(symbol, source)].join(" "),
    options(declaration, symbol.name, source),
  );
}

/** String literals that are given to a property of this name, or in a list there. */
function literals(within: ts.Node, name: string): string[] {
  return [...nodesOf(within, ts.isPropertyAssignment)]
    .filter((property) => property.name.getText() === name)
    .flatMap(({ initializer }) => [...nodesOf(initializer, ts.isStringLiteral)])
    .map(({ text }) => text);
}

function options(declaration: ts.FunctionDeclaration, name: string, source: Source): string {
  const [parameter] = declaration.parameters;
  if (parameter === undefined) return "No options.";
  const type = source.checker.getTypeAtLocation(parameter);
  const list = source.checker.isArrayType(type);
  const [element] = list ? source.checker.getTypeArguments(type as ts.TypeReference) : [];
  const fields = fieldsOf(element ?? type, source, isOurs);
  const schema = schemaOf(declaration);
  const defaults = schema ? defaultsOf(schema, source) : new Map<string, unknown>();
  return table(
    [list ? "option of each in the list" : "option", "type", "default", "meaning"],
    fields.map((field) => row(field, defaults.get(list ? `[].${field.path}` : field.path), `${name}()`)),
  );
}

/** Objects that belong to the plugins alone are opened; what is of the core has its own page. */
function isOurs(symbol: ts.Symbol): boolean {
  const file = symbol.declarations?.[0]?.getSourceFile().fileName ?? "";
  return /\/plugins\/[^/]+\/[^/]+\.ts$/.test(file);
}

/** What `checkOptions` is called with. */
function schemaOf(declaration: ts.Node): ts.Expression | undefined {
  const calls = [...nodesOf(declaration, ts.isCallExpression)];
  return calls.find(({ expression }) => expression.getText() === "checkOptions")?.arguments[1];
}

const SAYS_DEFAULT = /\b(?:Default:? |default (?=[\d`"]))(`[^`]+`|"[^"]*"|.+?)(?:\.(?=\s|$)|(?=[,;:]\s|$))/;

/** The docstring's words for a default are kept where they say the same as the schema. */
function row({ path, type, required, text }: Field, value: unknown, where: string): string[] {
  const [sentence = "", said] = SAYS_DEFAULT.exec(text) ?? [];
  if (said !== undefined && value !== undefined && !agrees(said, value))
    throw new Error(`${where}: the docstring of ${path} says "Default ${said}", its schema ${JSON.stringify(value)}.`);
  const shown =
    said?.replace(/^"(.*)"$/, '`"$1"`') ?? (value === undefined ? (required ? "*required*" : "") : code(show(value)));
  // A sentence that says nothing else is in the column.
  const alone = sentence.endsWith(".") || text.endsWith(sentence);
  const meaning = (alone ? text.replace(sentence, "") : text).replaceAll(/\s+/g, " ").replace(/[,\s]+$/, "");
  return [code(path), code(type), shown, /^$|[.!?]$/.test(meaning) ? meaning : `${meaning}.`];
}

/** `4 MiB` and 4194304, `none` and [], `"tls"` and `tls` are the same. Words are believed. */
function agrees(said: string, value: unknown): boolean {
  const plain = said.replaceAll(/[`"]/g, "");
  const [, digits, unit] = /^([\d,._]+) ?(KiB|MiB|s|ms|min|%)?$/.exec(plain) ?? [];
  const factor = { KiB: 1_024, MiB: 1_048_576, s: 1_000, min: 60_000, "%": 0.01 }[unit ?? ""] ?? 1;
  if (typeof value === "number")
    return digits === undefined || Number(digits.replaceAll(/[,_]/g, "")) * factor === value;
  if (typeof value === "string") return plain === value || / /.test(plain);
  if (typeof value === "boolean") return !/^(true|false)$/.test(plain) || plain === String(value);
  return !plain.startsWith("[") || plain === show(value).replaceAll('"', "");
}

function show(value: unknown): string {
  if (typeof value === "number") return value.toLocaleString("en-US");
  return JSON.stringify(value).replaceAll(",", ", ");
}

function hooks(source: Source): string {
  const type = source.checker.getDeclaredTypeOfSymbol(source.declared("core/hooks.ts", "NodeHooks"));
  const fields = fieldsOf(type, source);
  const refuses = ({ path, type: signature }: Field): boolean =>
    path === "frame:chunk" || (signature.endsWith("Awaitable<void>") && !path.startsWith("node:"));
  const named = given(fields, source);
  return page(
    "Hooks",
    "The named points in the life of a node, a call and a frame, and what a listener is given.",
    docOf(source.declared("core/hooks.ts", "NodeHooks"), source),
    table(
      ["hook", "listener", "a throw", "meaning"],
      fields.map((field) => [code(field.path), code(field.type), refuses(field) ? "refuses" : "is told", field.text]),
    ),
    "## What they are given",
    ...named.map((symbol) =>
      lines(
        `### ${symbol.name}`,
        docOf(symbol, source),
        table(
          ["field", "type", "meaning"],
          fieldsOf(source.checker.getDeclaredTypeOfSymbol(symbol), source).map((field) => [
            code(field.path + (field.required ? "" : "?")),
            code(field.type),
            field.text,
          ]),
        ),
      ),
    ),
  );
}

/** The interfaces that these fields speak of, and those that they speak of; what the node itself can do is another matter. */
function given(fields: readonly Field[], source: Source): ts.Symbol[] {
  const found = new Set<ts.Symbol>();
  const interfaces = [...source.exports("core/index.ts").values()].filter(
    ({ flags }) => flags & ts.SymbolFlags.Interface,
  );
  const visit = (list: readonly Field[]): void => {
    for (const symbol of interfaces) {
      if (found.has(symbol) || !list.some(({ type }) => new RegExp(`\\b${symbol.name}\\b`).test(type))) continue;
      found.add(symbol);
      if (symbol.name !== "AimoNode") visit(fieldsOf(source.checker.getDeclaredTypeOfSymbol(symbol), source));
    }
  };
  visit(fields);
  return interfaces.filter((symbol) => found.has(symbol));
}

function errors(source: Source): string {
  const { valueDeclaration } = source.declared("core/error.ts", "TABLE");
  const type = source.checker.getTypeAtLocation(valueDeclaration as ts.Declaration);
  const rows = source.checker.getPropertiesOfType(type).map((symbol) => {
    const error = new AimoError(symbol.name as ErrorCode, "");
    return [
      code(symbol.name),
      String(error.status),
      error.retryable ? "yes" : "no",
      code(error.toJSON().error.type),
      docOf(symbol, source),
    ];
  });
  const data = source.checker.getDeclaredTypeOfSymbol(source.declared("core/error.ts", "ErrorData"));
  return page(
    "Errors",
    "Every error of a node: its code, what a client gets, and whether another provider is asked.",
    'A client gets an OpenAI error object, `{ "error": { "message", "type", "code", "param" } }`, with the code in lower case; in a stream that has begun it is one last SSE event. *Retried*: another target of the call is tried while nothing of substance has reached the client, and a client may try again.',
    table(["code", "HTTP", "retried", "type", "meaning"], rows),
    "## What an error may carry",
    docOf(source.declared("core/error.ts", "AimoError"), source),
    table(
      ["field of `data`", "type", "meaning"],
      fieldsOf(data, source).map(({ path, type: of, text }) => [code(path), code(of), text]),
    ),
  );
}

function config(source: Source): string {
  const type = source.checker.getDeclaredTypeOfSymbol(source.declared("core/config.ts", "NodeConfig"));
  const fields = fieldsOf(type, source, (symbol) => symbol.name === "__type");
  const file = source.checker.getDeclaredTypeOfSymbol(source.declared("core/config.ts", "ConfigFile"));
  const beside = fieldsOf(file, source).filter(({ path }) => !fields.some((field) => field.path === path));
  const settings = resolveConfig({ plugins: [] }) as unknown as Record<string, unknown>;
  const valueAt = (path: string): unknown =>
    path.split(".").reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], settings);
  return page(
    "The config",
    "Every field of `aimo.config.ts`, with its default.",
    docOf(source.declared("core/config.ts", "NodeConfig"), source),
    table(
      ["field", "type", "default", "meaning"],
      fields.map((field) => {
        const value = valueAt(field.path);
        const group = typeof value === "object" && !Array.isArray(value);
        return row(field, group || field.required ? undefined : value, "the config");
      }),
    ),
    "## In a file",
    docOf(source.declared("core/config.ts", "ConfigFile"), source),
    table(
      ["field", "type", "meaning"],
      beside.map(({ path, type: of, text }) => [code(path), code(of), text]),
    ),
  );
}

function cli(): string {
  const program = build();
  const sections = (parent: Command, before: string): string[] =>
    parent.commands
      .filter((each) => !(each as Command & { _hidden?: boolean })._hidden)
      .flatMap((each) => {
        const name = `${before} ${each.name()}`;
        return [commandSection(each, name), ...sections(each, name)];
      });
  return page(
    "Commands",
    "Every command of `aimo` and its options.",
    "Exit codes: 0 done, 1 failed, 2 wrong usage or config. Each command has `--help`. What a program reads goes to stdout, everything else to stderr; `--json` where it is offered gives JSON lines.",
    ...sections(program, program.name()),
  );
}

function commandSection(each: Command, name: string): string {
  const rows = [
    ...each.registeredArguments.map((argument) => [
      code(argument.required ? `<${argument.name()}>` : `[${argument.name()}]`),
      argument.description,
      "",
    ]),
    ...each.options.map((option) => {
      const { defaultValue: value } = option as { defaultValue?: unknown };
      const unsaid = value === undefined || value === false || /\(default: /.test(option.description);
      return [code(option.flags), option.description, unsaid ? "" : code(String(value))];
    }),
  ];
  return lines(
    `## ${name}`,
    each.description(),
    `    ${name} ${each.usage()}`,
    rows.length > 0 ? table(["argument or option", "meaning", "default"], rows) : "",
    afterHelp(each),
  );
}

/** What `addHelpText("after")` adds is only to be had from the whole. */
function afterHelp(each: Command): string {
  let all = "";
  const { writeOut } = each.configureOutput();
  each.configureOutput({ writeOut: (text) => void (all += text) });
  each.outputHelp();
  each.configureOutput(writeOut ? { writeOut } : {});
  return all.slice(each.helpInformation().length).trim();
}
