// The closing line of the gate from vitest's JSON report: "N passed, N failed, N skipped". Fails when no test ran.
import { readFileSync } from 'node:fs';

let report;
try {
  report = JSON.parse(readFileSync(process.argv[2], 'utf8'));
} catch (error) {
  console.log(`no test report: ${error.message}`);
  process.exit(1);
}
const failed = report.testResults.flatMap((file) =>
  file.assertionResults
    .filter((test) => test.status === 'failed')
    .map((test) => `failed: ${file.name}: ${test.fullName}`),
);
const broken = report.testResults
  .filter((file) => file.status === 'failed' && file.assertionResults.length === 0)
  .map((file) => `failed to load: ${file.name}`);
for (const line of [...failed, ...broken]) console.log(line);
console.log(
  `${report.numPassedTests} passed, ${report.numFailedTests + broken.length} failed, ${report.numPendingTests + report.numTodoTests} skipped`,
);
if (report.numPassedTests === 0) process.exit(1);
