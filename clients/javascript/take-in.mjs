// The package is made of the files that the server serves. They are taken in to be packed, and away again after that.
import { copyFileSync, readFileSync, rmSync } from "node:fs";

const here = (name) => new URL(name, import.meta.url);
const there = (name) => new URL(`../../${name}`, import.meta.url);
const { version, files } = JSON.parse(readFileSync(here("package.json"), "utf8"));
const taken = new Map([...files.map((name) => [name, `fastcable/client/${name}`]), ["LICENSE", "LICENSE"]]);

const [, theirs] = readFileSync(there("fastcable/__init__.py"), "utf8").match(/^__version__ = "(.+)"$/m);
if (version !== theirs) {
  console.error(`package.json: version is ${version}, and ${theirs} in fastcable/__init__.py`);
  process.exitCode = 1;
} else for (const [name, source] of taken) {
  if (process.argv.includes("--away")) rmSync(here(name));
  else copyFileSync(there(source), here(name));
}
