// The end of the gate's log: of each failed test its file and line, name, message and what was written while it ran; the machine; and as the last
// line "N passed, N failed, N skipped". From vitest's JSON report, and the log for what the report does not have. Fails when no test ran.
//   node .ci/summary.mjs RESULTS.json TEST.log LOADS       LOADS: lines of "unix-seconds load-average"
import { readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { relative } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const MESSAGE_LINES_MAX = 40;
const OUTPUT_LINES_MAX = 40;

const [resultsPath, logPath, loadsPath] = process.argv.slice(2);
const log = stripVTControlCharacters(textOf(logPath)).split('\n');
const loads = textOf(loadsPath)
  .split('\n')
  .map((line) => line.split(' ').map(Number));

let report;
try {
  report = JSON.parse(readFileSync(resultsPath, 'utf8'));
} catch (error) {
  console.log(`no test report: ${error.message}`);
  process.exit(1);
}
const failures = report.testResults.flatMap((file) => {
  const failed = file.assertionResults.filter(({ status }) => status === 'failed');
  if (failed.length > 0) {
    return failed.map(({ ancestorTitles, title, fullName, failureMessages }) => {
      const heading = [...ancestorTitles, title].join(' > ');
      return { file, name: fullName, heading, message: failureMessages.join('\n') };
    });
  }
  // A file that cannot be loaded, or whose beforeAll failed: its tests did not run.
  return file.status === 'failed'
    ? [{ file, name: '(its tests did not run)', heading: '', message: file.message }]
    : [];
});
for (const { file, name, heading, message } of failures) {
  const path = relative('.', file.name);
  const text = sectionOf(path, heading) ?? message;
  const line = text.match(new RegExp(`${path.replaceAll('.', '\\.')}:(\\d+)`))?.[1];
  console.log(`failed: ${path}${line === undefined ? '' : `:${line}`}: ${name}`);
  const stack = /^\s+at .*node_modules|node:internal/;
  printed(
    text.split('\n').filter((each) => !stack.test(each)),
    MESSAGE_LINES_MAX,
  );
  printed(outputOf(path), OUTPUT_LINES_MAX);
  console.log(`  load average while the file ran: ${loadFrom(file.startTime / 1000, file.endTime / 1000)}`);
}
if (failures.length > 0) {
  const memory = Math.round(totalmem() / 2 ** 30);
  console.log(`machine: Linux ${release()}, ${cpus().length} cores, ${memory} GiB, node ${process.version}`);
}
const ofFiles = failures.length - report.numFailedTests;
console.log(
  `${report.numPassedTests} passed, ${report.numFailedTests + ofFiles} failed, ${report.numPendingTests + report.numTodoTests} skipped`,
);
if (report.numPassedTests === 0) process.exit(1);

function textOf(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function printed(lines, max) {
  for (const line of lines.slice(0, max)) console.log(`  ${line}`);
  if (lines.length > max) console.log(`  ... and ${lines.length - max} lines more above`);
}

/** What the default reporter says of a failed test, with the difference; undefined when it says nothing. */
function sectionOf(path, heading) {
  const start = log.findIndex((line) => line.trim().startsWith(`FAIL  ${path}`) && line.includes(heading));
  if (start < 0) return undefined;
  const length = log.slice(start).findIndex((line) => line.startsWith('⎯⎯'));
  return log
    .slice(start, length < 0 ? undefined : start + length)
    .filter((line) => !line.trim().startsWith('FAIL  ') && line !== '')
    .join('\n');
}

/** What the default reporter shows as written by a test of the file: blocks that begin with "stderr | FILE > TEST" and end with an empty line. */
function outputOf(path) {
  const lines = [];
  let isOurs = false;
  for (const line of log) {
    if (/^std(out|err) \| /.test(line)) isOurs = line.includes(path);
    else if (line === '') isOurs = false;
    if (isOurs) lines.push(line);
  }
  return lines;
}

function loadFrom(start, end) {
  const found = loads.filter(([at]) => at >= start - 10 && at <= end + 10).map(([, load]) => load);
  return found.length === 0 ? 'not known' : `${Math.min(...found)} to ${Math.max(...found)}`;
}
