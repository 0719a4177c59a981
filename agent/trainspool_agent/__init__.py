"""The trainspool agent: carries every spooled event, exactly once, into an MLflow-compatible run store."""
