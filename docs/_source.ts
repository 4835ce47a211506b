import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

export const ROOT: string = fileURLToPath(new URL("..", import.meta.url));

/** The sources as TypeScript sees them. */
export interface Source {
  readonly program: ts.Program;
  readonly checker: ts.TypeChecker;
  /** Throws for a file that is not there. */
  file(path: string): ts.SourceFile;
  /** What a module exports, by name. */
  exports(path: string): ReadonlyMap<string, ts.Symbol>;
  /** A type or interface that a module declares, exported or not. */
  declared(path: string, name: string): ts.Symbol;
}

/** One option, field or argument. */
export interface Field {
  /** `timeouts.gap`, `rules[].model` */
  readonly path: string;
  readonly type: string;
  readonly required: boolean;
  /** The docstring, in one line. */
  readonly text: string;
}

/** Of the whole project; a second takes as long as the first, so share it. */
export function readSource(): Source {
  const host = { ...ts.sys, onUnRecoverableConfigFileDiagnostic: () => undefined };
  const config = ts.getParsedCommandLineOfConfigFile(`${ROOT}/tsconfig.json`, {}, host);
  if (config === undefined) throw new Error("tsconfig.json cannot be read.");
  return sourceOf(ts.createProgram(config.fileNames, config.options));
}

export function sourceOf(program: ts.Program): Source {
  const checker = program.getTypeChecker();
  const file = (path: string): ts.SourceFile => {
    const found = program.getSourceFile(ROOT + path);
    if (found === undefined) throw new Error(`There is no source ${path}.`);
    return found;
  };
  return {
    program,
    checker,
    file,
    exports(path) {
      const module = checker.getSymbolAtLocation(file(path));
      const symbols = module ? checker.getExportsOfModule(module) : [];
      return new Map(symbols.map((symbol) => [symbol.name, resolved(symbol, checker)]));
    },
    declared(path, name) {
      const found = checker
        .getSymbolsInScope(file(path), ts.SymbolFlags.Type | ts.SymbolFlags.Variable)
        .find((symbol) => symbol.name === name && symbol.declarations?.[0]?.getSourceFile() === file(path));
      if (found === undefined) throw new Error(`${path} declares no ${name}.`);
      return checker.getExportSymbolOfSymbol(found);
    },
  };
}

function relative(node: ts.Node): string {
  return node.getSourceFile().fileName.slice(ROOT.length - 1);
}

/** Behind `export { x } from`. */
function resolved(symbol: ts.Symbol, checker: ts.TypeChecker): ts.Symbol {
  return symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
}

export function docOf(symbol: ts.Symbol, { checker }: Source): string {
  return ts.displayPartsToString(symbol.getDocumentationComment(checker)).replaceAll(/\s+/g, " ").trim();
}

/** The fields of an object type; those of objects in it too, where `opens` says so. */
export function fieldsOf(
  type: ts.Type,
  source: Source,
  opens: (inner: ts.Symbol) => boolean = () => false,
  at = "",
): Field[] {
  const { checker } = source;
  return checker.getPropertiesOfType(type).flatMap((property) => {
    const declaration = property.valueDeclaration ?? property.declarations?.[0];
    // Tests add hooks and services, too.
    if (
      declaration === undefined ||
      property.name.startsWith("__@") ||
      /\/(test|docs|templates)\//.test(relative(declaration))
    )
      return [];
    const path = at + property.name;
    const inner = checker.getNonNullableType(checker.getTypeOfSymbolAtLocation(property, declaration));
    const own: Field = {
      path,
      type: typeText(property, declaration, inner, source),
      required: !(property.flags & ts.SymbolFlags.Optional),
      text: docOf(property, source),
    };
    const element = checker.isArrayType(inner) ? checker.getTypeArguments(inner as ts.TypeReference)[0] : undefined;
    const nested = element ?? inner;
    const symbol = nested.aliasSymbol ?? nested.getSymbol();
    const isObject = (nested.flags & ts.TypeFlags.Object) !== 0 && nested.getCallSignatures().length === 0;
    if (symbol === undefined || !isObject || !opens(symbol)) return [own];
    const rest = fieldsOf(nested, source, opens, `${path}${element ? "[]" : ""}.`);
    return rest.length === 0 ? [own] : [{ ...own, type: element ? "list" : "object" }, ...rest];
  });
}

const FORMAT = ts.TypeFormatFlags.NoTruncation | ts.TypeFormatFlags.UseAliasDefinedOutsideCurrentScope;

/** As it is written, unless that says nothing to who reads it elsewhere. */
function typeText(property: ts.Symbol, declaration: ts.Declaration, type: ts.Type, { checker }: Source): string {
  if (ts.isMethodSignature(declaration)) {
    const [signature] = checker.getTypeOfSymbolAtLocation(property, declaration).getCallSignatures();
    if (signature) return oneLine(checker.signatureToString(signature, declaration, FORMAT));
  }
  const written = ts.isPropertySignature(declaration) ? declaration.type : undefined;
  // An alias for a choice hides what may be chosen.
  if (type.isUnion() && type.aliasSymbol)
    return oneLine(checker.typeToString(type, declaration, FORMAT | ts.TypeFormatFlags.InTypeAlias));
  if (written && !ts.isIndexedAccessTypeNode(written)) return oneLine(written.getText());
  return oneLine(checker.typeToString(type, declaration, FORMAT));
}

/** Code without its comments. */
function oneLine(text: string): string {
  return text
    .replaceAll(/\/\*\*[\s\S]*?\*\/|\/\/.*$/gm, " ")
    .replaceAll(/\s+/g, " ")
    .trim();
}

/** What `.default(…)` says in a zod schema, by the path of the field. Values that are no constants are left out. */
export function defaultsOf(schema: ts.Expression, source: Source): Map<string, unknown> {
  const found = new Map<string, unknown>();
  const visit = (node: ts.Expression, path: string): void => {
    if (ts.isIdentifier(node)) {
      const value = initializerOf(node, source);
      if (value) visit(value, path);
    }
    if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) return;
    const [argument] = node.arguments;
    switch (node.expression.name.text) {
      case "default": {
        const value = argument && constant(argument, source);
        if (value !== undefined) found.set(path, value);
        break;
      }
      case "strictObject":
      case "object":
      case "looseObject":
        if (argument && ts.isObjectLiteralExpression(argument))
          for (const property of argument.properties) {
            const name = property.name?.getText() ?? "";
            if (ts.isPropertyAssignment(property)) visit(property.initializer, path === "" ? name : `${path}.${name}`);
            else if (ts.isShorthandPropertyAssignment(property))
              visit(property.name, path === "" ? name : `${path}.${name}`);
          }
        break;
      case "array":
        if (argument) visit(argument, `${path}[]`);
    }
    visit(node.expression.expression, path);
  };
  visit(schema, "");
  return found;
}

function initializerOf(name: ts.Identifier, { checker }: Source): ts.Expression | undefined {
  const symbol = checker.getSymbolAtLocation(name);
  const declaration = symbol && resolved(symbol, checker).valueDeclaration;
  return declaration && ts.isVariableDeclaration(declaration) ? declaration.initializer : undefined;
}

/** Numbers, strings, booleans and lists of them; `undefined` for everything else. */
function constant(node: ts.Expression, source: Source): unknown {
  if (ts.isNumericLiteral(node)) return Number(node.text);
  if (ts.isStringLiteral(node)) return node.text;
  if (node.kind === ts.SyntaxKind.TrueKeyword) return true;
  if (node.kind === ts.SyntaxKind.FalseKeyword) return false;
  if (ts.isParenthesizedExpression(node) || ts.isAsExpression(node)) return constant(node.expression, source);
  if (ts.isArrayLiteralExpression(node)) {
    const values = node.elements.map((element) => constant(element, source));
    return values.includes(undefined) ? undefined : values;
  }
  if (ts.isObjectLiteralExpression(node) && node.properties.length === 0) return {};
  if (ts.isIdentifier(node)) {
    const value = initializerOf(node, source);
    return value && constant(value, source);
  }
  if (!ts.isBinaryExpression(node)) return undefined;
  const [left, right] = [constant(node.left, source), constant(node.right, source)];
  if (typeof left !== "number" || typeof right !== "number") return undefined;
  if (node.operatorToken.kind === ts.SyntaxKind.AsteriskToken) return left * right;
  return node.operatorToken.kind === ts.SyntaxKind.SlashToken ? left / right : undefined;
}

/** Every node of this kind below another. */
export function* nodesOf<T extends ts.Node>(node: ts.Node, is: (node: ts.Node) => node is T): Generator<T> {
  if (is(node)) yield node;
  for (const child of node.getChildren()) yield* nodesOf(child, is);
}

/** Folders that have an `index.ts`: the kinds of plugins. */
export function kinds(): string[] {
  return readdirSync(`${ROOT}/plugins`, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name)
    .toSorted();
}
