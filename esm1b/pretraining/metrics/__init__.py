"""What a run reports: metrics, throughput, spikes."""
