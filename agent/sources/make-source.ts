/** A source from its configuration. What only some agents need is loaded when it is configured: a small machine has it in memory otherwise. */
import type { AgentConfig, SourceConfig } from '../config.ts';
import { receiptsPerSource } from './exclusive.ts';
import { fileSource } from './file/file-source.ts';
import { hostSource } from './host.ts';
import { simulatorSource } from './simulator.ts';
import type { Source } from './source.ts';

export async function makeSource(
  source: SourceConfig,
  index: number,
  agent: AgentConfig,
  baseDir: string,
): Promise<Source> {
  switch (source.type) {
    case 'host':
      return hostSource(source, index);
    case 'file':
      return fileSource(source, baseDir, agent.spool.maxBytes);
    case 'http': {
      const { httpSource } = await import('./http/http-source.ts');
      return httpSource(source, baseDir, receiptsPerSource(agent));
    }
    case 'mqtt': {
      const { mqttSource } = await import('./mqtt/mqtt-source.ts');
      return mqttSource(source, agent.agent.id, baseDir, receiptsPerSource(agent));
    }
    case 'syslog': {
      const { syslogSource } = await import('./syslog/syslog-source.ts');
      return syslogSource(source, baseDir);
    }
    case 'journald': {
      const { journaldSource } = await import('./journald/journald-source.ts');
      return journaldSource(source);
    }
    case 'modbus': {
      const { modbusSource } = await import('./modbus/modbus-source.ts');
      return modbusSource(source);
    }
    case 'opcua': {
      const { opcuaSource } = await import('./opcua/opcua-source.ts');
      return opcuaSource(source, agent, baseDir);
    }
    case 'simulator':
      return simulatorSource(source, index);
  }
}
