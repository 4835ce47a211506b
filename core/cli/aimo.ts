#!/usr/bin/env node
// Nothing is imported before the check: an old Node would stop at syntax or a missing built-in instead of saying why.
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 13)) {
  console.error(`aimo needs Node 22.13 or newer; this is ${process.versions.node}.`);
  process.exitCode = 1;
} else {
  const { main } = await import("./main.ts");
  await main(process.argv);
}
