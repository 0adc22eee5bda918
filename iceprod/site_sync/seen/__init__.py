"""What people see of other sites."""
