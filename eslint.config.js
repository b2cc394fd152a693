import tseslint from 'typescript-eslint';

export default tseslint.config(
  {
    // The last one: AssemblyScript, which its own compiler checks.
    ignores: [
      ...['node_modules', 'dist', 'data', 'coverage', '**/*.cjs', '**/*.mjs', 'eslint.config.js'],
      'deploy/examples/wasm',
    ],
  },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      // Numbers, bigints and booleans print as themselves; the rule is there for objects.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      // `while (true)` with a return inside is the plain way to write a loop that ends from within.
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      // An adapter may have to be async by its port although it does its work synchronously.
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
    },
  },
);
