"""What a run tells an OpenTelemetry collector, where the standard `OTEL_*` variables name one."""
