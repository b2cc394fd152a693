/**
 * The admin page's files, held in memory: the modules of web/ (in a checkout TypeScript, whose types are stripped here once; in an
 * installed package the JavaScript of the build), uPlot from its package, the style sheet and the one HTML document.
 *
 * Invariants: only files that were found at the start are served; a request names no path. Nothing is fetched from elsewhere.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire, stripTypeScriptTypes } from 'node:module';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { App } from './context.ts';
import { PenstockError } from '../lib/errors.ts';

interface WebFile {
  readonly body: Buffer;
  readonly type: string;
  readonly etag: string;
}

export interface WebFiles {
  readonly index: WebFile;
  /** By the name under /assets/. */
  readonly assets: ReadonlyMap<string, WebFile>;
  /** For the Content-Security-Policy: the import map is the one inline script. */
  readonly importMapHash: string;
}

const SCRIPT = 'text/javascript; charset=utf-8';
const STYLE = 'text/css; charset=utf-8';
const IMPORT_MAP = JSON.stringify({ imports: { uplot: '/assets/uplot.js' } });

export function loadWebFiles(): WebFiles {
  const folder = join(import.meta.dirname, '..', 'web');
  const assets = new Map<string, WebFile>();
  for (const name of readdirSync(folder)) {
    if (name.endsWith('.d.ts')) continue;
    const text = (): string => readFileSync(join(folder, name), 'utf8');
    if (name.endsWith('.ts')) assets.set(name, webFile(stripTypeScriptTypes(text()), SCRIPT));
    else if (name.endsWith('.js')) assets.set(name, webFile(text(), SCRIPT));
    else if (name.endsWith('.css')) assets.set(name, webFile(text(), STYLE));
  }
  const uplot = dirname(createRequire(import.meta.url).resolve('uplot'));
  assets.set('uplot.js', webFile(readFileSync(join(uplot, 'uPlot.esm.js'), 'utf8'), SCRIPT));
  assets.set('uplot.css', webFile(readFileSync(join(uplot, 'uPlot.min.css'), 'utf8'), STYLE));
  const main = assets.has('main.ts') ? 'main.ts' : 'main.js';
  return {
    index: webFile(document(main), 'text/html; charset=utf-8'),
    assets,
    importMapHash: createHash('sha256').update(IMPORT_MAP).digest('base64'),
  };
}

function document(main: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Penstock</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/assets/uplot.css">
<link rel="stylesheet" href="/assets/style.css">
<script type="importmap">${IMPORT_MAP}</script>
<script type="module" src="/assets/${main}"></script>
</head>
<body><noscript>This page needs JavaScript. The API does not: see /openapi.json.</noscript></body>
</html>
`;
}

function webFile(text: string, type: string): WebFile {
  const body = Buffer.from(text);
  return { body, type, etag: `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"` };
}

export function pageRoutes(app: App, files: WebFiles): void {
  const page = { config: { access: 'public' }, schema: { hide: true } } as const;
  app.get('/', page, (request, reply) => sendFile(files.index, request.headers['if-none-match'], reply));
  app.get(
    '/assets/:name',
    { ...page, schema: { hide: true, params: z.object({ name: z.string().max(100) }) } },
    (request, reply) => {
      const file = files.assets.get(request.params.name);
      if (file === undefined) throw new PenstockError('not-found', `there is no asset ${request.params.name}`);
      return sendFile(file, request.headers['if-none-match'], reply);
    },
  );
}

interface Reply {
  header(name: string, value: string): unknown;
  code(status: number): unknown;
  send(body?: Buffer): unknown;
}

/** Revalidated at each load: a new version is seen at once, and an old one costs an empty answer. */
function sendFile(file: WebFile, known: string | undefined, reply: Reply): unknown {
  reply.header('etag', file.etag);
  reply.header('cache-control', 'no-cache');
  if (known === file.etag) {
    reply.code(304);
    return reply.send();
  }
  reply.header('content-type', file.type);
  return reply.send(file.body);
}
