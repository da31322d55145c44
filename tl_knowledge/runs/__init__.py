"""What tracing, attention and circuits share: corruption, experiments, interventions, resolved arguments."""
