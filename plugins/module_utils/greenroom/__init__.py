"""Greenroom's library: all logic of the modules and the callback, without AnsibleModule inside."""
