"""What is written from one source for those who operate agentrt: the chart's table and schema, k8s/, the dashboards."""
