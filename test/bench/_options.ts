/** Reads `--name value` and `--flag` by the example of the defaults; prints the help and exits where asked or wrong. */
export function readOptions<T extends Record<string, string | number | boolean>>(help: string, defaults: T): T {
  const options: Record<string, string | number | boolean> = { ...defaults };
  const args = process.argv.slice(2);
  const refuse = (why: string): never => {
    console.error(`${why}\n\n${help}`);
    process.exit(2);
  };
  while (args.length > 0) {
    const [arg, inline] = (args.shift() as string).split("=", 2) as [string, string?];
    const name = arg.replace(/^--/, "").replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
    if (name === "help" || arg === "-h") {
      console.log(help);
      process.exit(0);
    }
    const known = defaults[name];
    if (!arg.startsWith("--") || known === undefined) refuse(`There is no option ${arg}.`);
    if (typeof known === "boolean") options[name] = true;
    else {
      const value = inline ?? args.shift();
      if (value === undefined) refuse(`${arg} needs a value.`);
      if (typeof known === "number" && !(Number(value) > 0)) refuse(`${arg} must be a number above 0.`);
      options[name] = typeof known === "number" ? Number(value) : (value as string);
    }
  }
  return options as T;
}

/** To stderr, so that stdout is the result alone. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}
